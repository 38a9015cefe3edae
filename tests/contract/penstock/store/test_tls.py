"""TLS to Redis: both halves verify the certificate before they send the password."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from config.settings import WorkerSettings
from penstock.client import Client
from penstock.errors import ConfigurationError, RedisUnavailable
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue.consumers import find_consumers
from penstock.queue.wakeups import WakeUps
from penstock.settings import ClientSettings
from penstock.store.connection import (
    connect,
    connect_async,
    connect_listener,
    redis_errors_translated,
)
from tests.tls_server import Authority, TlsServer, tls_server
from workers.startup import StartRefused, check_redis

PASSWORD = "planted-redis"

Use = Callable[[ClientSettings], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """A Redis of these tests: it has a password."""
    with EmbeddedRedis(password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def good(authority: Authority, server: EmbeddedRedis) -> Iterator[TlsServer]:
    with tls_server(authority.certificate("good"), server.port) as served:
        yield served


def settings(
    port: int, options: str = "", *, scheme: str = "rediss", timeout: float = 2
) -> WorkerSettings:
    url = f"{scheme}://:{PASSWORD}@127.0.0.1:{port}/0{options}"
    return WorkerSettings.load(redis_url=url, key_prefix="tls", redis_timeout_s=timeout)


def store(settings: ClientSettings) -> None:
    """Use the store as a producer does."""
    with closing(connect(settings)) as connection, redis_errors_translated(settings):
        connection.ping()


def store_of_a_worker(settings: ClientSettings) -> None:
    """Use the store as a worker does."""

    async def ping(connect: Any) -> None:
        connection = connect(settings)
        try:
            with redis_errors_translated(settings):
                await connection.ping()
        finally:
            await connection.aclose()

    asyncio.run(ping(connect_async))
    asyncio.run(ping(connect_listener))


def broker(settings: ClientSettings) -> None:
    """Send a wake-up."""
    with closing(WakeUps(settings)) as wakeups:
        wakeups.stream("018bcfe5-6880-7000-8000-000000000000", "m")


def replies_of_workers(settings: ClientSettings) -> None:
    """Ask which workers run, as `celery inspect` does."""
    from kombu.exceptions import OperationalError

    try:
        find_consumers(settings)
    except OperationalError as error:
        raise RedisUnavailable(str(error)) from error


halves = pytest.mark.parametrize("use", [store, store_of_a_worker, broker])
every_use = pytest.mark.parametrize("use", [store, store_of_a_worker, broker, replies_of_workers])


@every_use
def test_a_certificate_of_a_named_authority_is_trusted(
    use: Use, authority: Authority, good: TlsServer
) -> None:
    before = len(good.received)
    use(settings(good.port, f"?ssl_ca_certs={authority.file}&client_name=tls-test"))
    assert PASSWORD.encode() in good.received[before:]
    assert b"tls-test" in good.received[before:]


@halves
def test_by_default_the_password_is_not_sent_to_an_unknown_server(
    use: Use, good: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another Celery app of the same program has its own broker, whose options must not be taken.
    monkeypatch.setenv("CELERY_BROKER_URL", f"rediss://:{PASSWORD}@127.0.0.1:{good.port}/0")
    before = good.received
    with pytest.raises(RedisUnavailable):
        use(settings(good.port))
    assert good.received == before


@halves
@pytest.mark.parametrize(
    ("host", "days", "words"),
    [
        ("DNS:other.example", 2, "is for another"),
        ("IP:127.0.0.1", -1, "has expired"),
        ("", 2, "that is not trusted: name the authority with ?ssl_ca_certs="),
    ],
)
def test_a_bad_certificate_is_named_and_gets_no_password(
    use: Use, host: str, days: int, words: str, authority: Authority, server: EmbeddedRedis
) -> None:
    file = authority.certificate(f"bad-{len(words)}", host=host or "IP:127.0.0.1", days=days)
    options = f"?ssl_ca_certs={authority.file}" if host else ""
    with tls_server(file, server.port) as served:
        with pytest.raises(RedisUnavailable) as raised:
            use(settings(served.port, options))
        with pytest.raises(StartRefused) as refused:
            check_redis(settings(served.port, options))
        assert served.received == b""
    for message in (str(raised.value), str(refused.value)):
        assert f"the server's certificate {words}" in message or words in message
        assert "cannot be reached (" not in message
        assert PASSWORD not in message
        assert "\n" not in message


@halves
def test_an_insecure_choice_is_possible_and_named(
    use: Use,
    good: TlsServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.store.connection._UNVERIFIED", set())
    insecure = settings(good.port, "?ssl_cert_reqs=none")
    use(insecure)
    check_redis(insecure)
    named = [line for line in caplog.messages if "is not verified" in line]
    assert len(named) == 1
    assert "ssl_cert_reqs=none" in named[0]


@halves
def test_a_server_without_tls_is_named(use: Use, server: EmbeddedRedis) -> None:
    with pytest.raises(RedisUnavailable, match="Does it speak TLS on this port"):
        use(settings(server.port, timeout=0.2))


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_file_of_certificates_that_cannot_be_used_is_refused_by_name(
    option: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option}: .*none.pem cannot be read"):
        settings(1, f"?{option}={tmp_path}/none.pem")
    with pytest.raises(ConfigurationError, match=rf"{option}: .* cannot be used"):
        settings(1, f"?{option}={__file__}")


@halves
def test_tls_at_a_plain_url_is_named(use: Use, good: TlsServer) -> None:
    with pytest.raises(RedisUnavailable, match="rediss://"):
        use(settings(good.port, scheme="redis"))


def test_a_request_is_enqueued_over_tls(authority: Authority, good: TlsServer) -> None:
    url = settings(good.port, f"?ssl_ca_certs={authority.file}").redis_url.get_secret_value()
    with Client(url, key_prefix="tls") as client:
        request = client.messages.enqueue(
            model="claude-haiku-4-5",
            max_tokens=5,
            messages=[{"role": "user", "content": "Hello."}],
        )
        assert request.id
