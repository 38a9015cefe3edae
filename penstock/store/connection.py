"""The one module that opens connections to Redis, with the reason for every odd value.

redis-py 8 waits at most 5 s for a reply and then repeats the command up to ten times with
backoff. Repeating is wrong here twice over: XADD and PUBLISH are not idempotent by themselves
(our write script is, and decides itself when to send again), and a producer that enqueues from
a web request must learn within seconds that Redis is gone. So: no retries inside the driver.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.backoff
import redis.exceptions
import redis.retry

from penstock.errors import RedisUnavailable
from penstock.settings import ClientSettings
from penstock.store.availability import UNREACHABLE
from penstock.store.redis_protocol import AsyncConnection, Connection

__all__ = [
    "AsyncConnection",
    "Connection",
    "connect",
    "connect_async",
    "connect_listener",
    "redis_address",
    "redis_errors_translated",
]

#: PING a connection that was idle for so many seconds before it is used again, so that one cut
#: by a firewall is noticed before a command is sent into it.
HEALTH_CHECK_S = 25


#: A loop with hundreds of streams sends its commands over so many connections; the rest waits for
#: one. Each costs some 60 kB and, to open, some milliseconds of CPU.
ASYNC_CONNECTIONS = 32


def _options(settings: ClientSettings) -> dict[str, Any]:
    return {
        "socket_timeout": settings.redis_timeout_s,
        "socket_connect_timeout": settings.redis_timeout_s,
        "health_check_interval": HEALTH_CHECK_S,
        "max_connections": 1000,
    }


def connect(settings: ClientSettings) -> Connection:
    """A synchronous client (bytes in, bytes out) with a pool of its own."""
    client = redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        **_options(settings),
    )
    return cast(Connection, client)  # the driver's own types allow for decoded replies


def connect_async(settings: ClientSettings) -> AsyncConnection:
    """An asyncio client (bytes in, bytes out) with a pool of its own."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
        timeout=settings.redis_timeout_s,
        **_options(settings) | {"max_connections": ASYNC_CONNECTIONS},
    )
    return cast(AsyncConnection, redis.asyncio.Redis.from_pool(pool))


def connect_listener(settings: ClientSettings) -> AsyncConnection:
    """An asyncio client for pub/sub alone."""
    client = redis.asyncio.Redis.from_url(
        settings.redis_url.get_secret_value(),
        # RESP2: redis-py takes a third less time for a message than with RESP3's pushes.
        protocol=2,
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
        **_options(settings)
        | {
            # The driver's own check reads the answer to its PING, whatever else comes first.
            "health_check_interval": 0,
            # With a timeout it sends inside `asyncio.wait_for`, which in Python 3.11 can lose
            # a cancellation. The hub has its own limits.
            "socket_timeout": None,
        },
    )
    return cast(AsyncConnection, client)


def redis_address(settings: ClientSettings) -> str:
    """The address in a Redis URL, without user and password, for messages."""
    url = settings.redis_url.get_secret_value()
    parts = urlsplit(url)  # without its query, which may have a password as well
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def redis_errors_translated(settings: ClientSettings) -> Iterator[None]:
    """Turn the driver's connection errors into `RedisUnavailable` with a hint what to do."""
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} refused the user or password "
            f"in PENSTOCK_REDIS_URL: {error}"
        ) from error
    except UNREACHABLE as error:
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} cannot be reached ({error}). "
            "Is it running, and is PENSTOCK_REDIS_URL right?"
        ) from error
    except redis.exceptions.OutOfMemoryError as error:
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} is full (maxmemory): nothing can be enqueued."
        ) from error
    except redis.exceptions.NoPermissionError as error:
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} forbids this user: {error}"
        ) from error
    except redis.exceptions.RedisError as error:
        raise RedisUnavailable(f"Redis at {redis_address(settings)} refuses: {error}") from error
