"""``penstock doctor`` on healthy and on faulty deployments."""

from collections.abc import Mapping

import pytest
import redis
from click.testing import CliRunner, Result

from penstock.cli import cli
from penstock.local.embedded_redis import EmbeddedRedis


def doctor(env: Mapping[str, str]) -> Result:
    return CliRunner(env=env).invoke(cli, ["doctor"], catch_exceptions=False)


@pytest.mark.usefixtures("penstock_workers")
def test_a_healthy_deployment_has_no_errors(penstock_environment: Mapping[str, str]) -> None:
    found = doctor(penstock_environment)
    assert found.exit_code == 0
    assert "error" not in found.stdout
    assert f"at redis://{found.stdout.partition('redis://')[2].split()[0]}" in found.stdout
    assert "api key      ANTHROPIC_API_KEY\n" in found.stdout
    assert penstock_environment["ANTHROPIC_API_KEY"] not in found.stdout
    assert f"{penstock_environment['ANTHROPIC_BASE_URL']} (ANTHROPIC_BASE_URL)" in found.stdout
    assert "1 worker: streams@" in found.stdout
    assert "1 worker: batches@" in found.stdout


@pytest.mark.usefixtures("penstock_workers")
def test_a_producer_needs_no_api_key(penstock_redis: EmbeddedRedis) -> None:
    found = doctor({"PENSTOCK_REDIS_URL": penstock_redis.url})
    assert found.exit_code == 0
    assert "warn   api key " in found.stdout


def test_an_unreachable_redis_is_reported_with_the_command_that_starts_one() -> None:
    found = doctor({"PENSTOCK_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert found.exit_code == 1
    assert "error  redis        Redis at redis://127.0.0.1:1/0 cannot be reached" in found.stdout
    assert "→ to start a local one: penstock up --simulate" in found.stdout


def test_a_wrong_password_is_reported_but_not_printed() -> None:
    with EmbeddedRedis(password="right") as server:
        found = doctor({"PENSTOCK_REDIS_URL": f"redis://:secret@127.0.0.1:{server.port}/0"})
    assert found.exit_code == 1
    assert "refused the user or password in PENSTOCK_REDIS_URL" in found.stdout
    assert "secret" not in found.stdout


def test_every_problem_is_reported_with_a_remedy() -> None:
    with EmbeddedRedis() as server:
        with redis.Redis.from_url(server.url) as connection:
            connection.config_set("maxmemory-policy", "allkeys-lru")
            connection.config_set("appendonly", "no")
            connection.lpush("streams", "a message")
        found = doctor({"PENSTOCK_REDIS_URL": server.url})
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    problems = [i for i, line in enumerate(lines) if line.startswith(("error", "warn"))]
    assert [lines[i].split()[1] for i in problems] == [
        "eviction",
        "persistence",
        "api",
        "streams",
        "batches",
    ]
    assert all(lines[i + 1].strip().startswith("→ ") for i in problems)
    assert "1 queued, no worker" in found.stdout
