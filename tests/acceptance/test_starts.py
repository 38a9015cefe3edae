"""A worker with unusable settings reports them in one line and does not start."""

import os
import subprocess
from collections.abc import Mapping

import pytest

from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import python_path, worker_command


def start(env: Mapping[str, str], queue: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a worker that is expected not to start."""
    return subprocess.run(
        worker_command(queue, *options),
        env={**os.environ, "C_FORCE_ROOT": "1", **python_path(), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def startup_error(env: Mapping[str, str], queue: str = "streams", *options: str) -> str:
    """Return the line in which a worker reports why it does not start."""
    ended = start(env, queue, *options)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


def test_a_worker_without_an_api_key_does_not_start(penstock_redis: EmbeddedRedis) -> None:
    line = startup_error({"PENSTOCK_REDIS_URL": penstock_redis.url})
    assert line.startswith("penstock: no API key: set ANTHROPIC_API_KEY")


def test_a_wrong_redis_password_is_reported() -> None:
    with EmbeddedRedis(password="right") as server:
        url = f"redis://:wrong@127.0.0.1:{server.port}/0"
        line = startup_error({"PENSTOCK_REDIS_URL": url, "ANTHROPIC_API_KEY": "k"})
    assert "refused the user or password in PENSTOCK_REDIS_URL" in line
    assert "wrong" not in line


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PENSTOCK_REDIS_URL", "http://redis", "must start with redis://, rediss:// or unix://"),
        ("PENSTOCK_STREAMS_CONCURRENCY", "many", "valid integer"),
        ("PENSTOCK_POLL_INTERVAL_RATIO", "7", "less than or equal to 1"),
        ("ANTHROPIC_BASE_URL", "api.anthropic.com", "match pattern"),
        ("ANTHROPIC_BASE_URL", "https://", "is not a URL"),
        ("ANTHROPIC_BASE_URL", "http://host:port", "is not a URL"),
        ("ANTHROPIC_BASE_URL", "https://api.anthropic.com/v1/", "ends in /v1"),
        ("SSL_CERT_FILE", "/no/such.pem", "/no/such.pem cannot be read"),
        ("HTTPS_PROXY", "ftp://user:secret@proxy", "ftp:// is not a kind of proxy"),
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "pip install socksio"),
        ("PENSTOCK_LOG_LEVEL", "LOUD", "'DEBUG', 'INFO'"),
    ],
)
def test_an_invalid_setting_is_reported_with_its_variable(
    name: str, value: str, message: str
) -> None:
    line = startup_error({"ANTHROPIC_API_KEY": "k", name: value})
    assert line.startswith(f"penstock: {name}: ")
    assert message in line
    assert "secret" not in line


@pytest.mark.parametrize("queue", ["streams", "batches"])
def test_an_ipv6_network_in_no_proxy_does_not_keep_a_worker_from_starting(queue: str) -> None:
    env = {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "fd00::/8,[::1]"}
    line = startup_error(env, queue)
    assert line.startswith("penstock: no API key"), "the check after that of the proxy"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--autoscale", "10,2"], "--autoscale cannot be used: "),
        (["-P", "threads"], "--pool: celery.concurrency.thread cannot be used: "),
    ],
)
def test_an_option_without_meaning_is_reported_with_its_replacement(
    options: list[str], message: str
) -> None:
    line = startup_error({"ANTHROPIC_API_KEY": "k"}, "streams", *options)
    assert line.startswith("penstock: ")
    assert message in line
