"""Connections: no retries in the driver, and its errors translated."""

from pathlib import Path
from typing import Any

import pytest
import redis
import redis.exceptions

from penstock.errors import InvalidRequest, RedisUnavailable
from penstock.settings import ClientSettings
from penstock.store.connection import connect, redis_errors_translated

SETTINGS = ClientSettings.load(redis_url="redis://u:hunter2@redis.example:6380/3")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (redis.exceptions.ConnectionError("refused"), "cannot be reached"),
        (redis.exceptions.TimeoutError("slow"), "cannot be reached"),
        (redis.exceptions.BusyLoadingError("LOADING"), "cannot be reached"),
        (redis.exceptions.AuthenticationError("WRONGPASS"), "refused the user or password"),
        (redis.exceptions.OutOfMemoryError("OOM"), "is full"),
        (redis.exceptions.NoPermissionError("NOPERM"), "denies this user"),
        (redis.exceptions.ReadOnlyError("READONLY You can't write against a replica"), ""),
        (redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file"), "MISCONF"),
        (redis.exceptions.MaxConnectionsError("Too many connections"), ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_drivers_errors_are_translated_and_keep_their_cause(
    error: Exception, words: str
) -> None:
    with pytest.raises(RedisUnavailable) as caught, redis_errors_translated(SETTINGS):
        raise error
    message = str(caught.value)
    assert words in message
    assert "redis://redis.example:6380/3" in message
    assert "hunter2" not in message
    assert "\n" not in message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [InvalidRequest("x"), ValueError("x"), KeyboardInterrupt()])
def test_other_errors_are_not_translated(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, redis_errors_translated(SETTINGS):
        raise error
    assert caught.value is error


def test_nothing_is_connected_before_the_first_command() -> None:
    connect(ClientSettings.load(redis_url="redis://127.0.0.1:1/0")).close()


def test_the_driver_never_retries_a_command() -> None:
    client: Any = connect(SETTINGS)
    options = client.connection_pool.connection_kwargs
    assert options["retry"].get_retries() == 0
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 5.0


def test_redis_connections_are_opened_in_one_module_only() -> None:
    root = Path(__file__).parents[4]
    opened = [
        path.name
        for folder in ("penstock", "config", "tasks", "workers")
        for path in (root / folder).rglob("*.py")
        if "Redis.from_url(" in path.read_text()
    ]
    # embedded_redis.py asks its own server whether it is up; it has no settings to read.
    assert sorted(opened) == ["connection.py", "embedded_redis.py"]
