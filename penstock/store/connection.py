"""Opens all connections to Redis, and gives the reason for each unusual option.

redis-py 8 waits at most 5 s for a reply and then repeats the command up to ten times with backoff.
That is wrong here for two reasons. XADD and PUBLISH are not idempotent; the write script is, and
the worker decides when to call it again. And a producer that enqueues from a web request must learn
within seconds that Redis is unavailable. So the driver never retries.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.backoff
import redis.exceptions
import redis.retry

from penstock.access.redaction import redact_exception
from penstock.errors import RedisUnavailable
from penstock.settings import ClientSettings
from penstock.store.availability import UNREACHABLE
from penstock.store.redis_protocol import AsyncConnection, Connection
from penstock.store.tls_errors import tls_problem, tls_question

__all__ = [
    "AsyncConnection",
    "Connection",
    "connect",
    "connect_async",
    "connect_listener",
    "redis_address",
    "redis_errors_translated",
]

logger = logging.getLogger(__name__)

#: Addresses whose certificates are not verified, and for which that was logged.
_UNVERIFIED: Final[set[str]] = set()

#: Seconds of idle time after which a connection is checked with PING before it is used again, so
#: that one closed by a firewall is noticed before a command is sent.
HEALTH_CHECK_S = 25

#: Maximum connections of an event loop; with hundreds of streams, commands wait for a free one.
#: Each costs about 60 kB, and a few milliseconds of CPU to open.
ASYNC_CONNECTIONS = 32

#: Follows the address of a Redis in messages.
IN_CLUSTER_MODE = (
    "is in cluster mode, which Celery's Redis transport does not support: use one server without "
    "cluster-enabled, or a primary with replicas"
)

#: What only a Redis in cluster mode answers.
_OF_A_CLUSTER = (
    redis.exceptions.AskError,
    redis.exceptions.ClusterCrossSlotError,
    redis.exceptions.ClusterDownError,
)


def _options(settings: ClientSettings) -> dict[str, Any]:
    return {
        "socket_timeout": settings.redis_timeout_s,
        "socket_connect_timeout": settings.redis_timeout_s,
        "health_check_interval": HEALTH_CHECK_S,
        "max_connections": 1000,
    }


def connect(settings: ClientSettings) -> Connection:
    """Create a synchronous client with its own pool. Replies are bytes."""
    _warn_if_unverified(settings)
    client = redis.Redis.from_url(
        settings.redis.driver_url,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        **_options(settings),
    )
    return cast(Connection, client)  # the driver's own types allow for decoded replies


def connect_async(settings: ClientSettings) -> AsyncConnection:
    """Create an asyncio client with its own pool. Replies are bytes."""
    _warn_if_unverified(settings)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis.driver_url,
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
        timeout=settings.redis_timeout_s,
        **_options(settings) | {"max_connections": ASYNC_CONNECTIONS},
    )
    return cast(AsyncConnection, redis.asyncio.Redis.from_pool(pool))


def connect_listener(settings: ClientSettings) -> AsyncConnection:
    """Create an asyncio client for pub/sub alone."""
    client = redis.asyncio.Redis.from_url(
        settings.redis.driver_url,
        # RESP2: redis-py needs a third less time for a message than with RESP3's push messages.
        protocol=2,
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
        **_options(settings)
        | {
            # The driver's check takes the next reply for the answer to its PING, even a message.
            "health_check_interval": 0,
            # With a timeout the driver sends inside `asyncio.wait_for`, which can lose a
            # cancellation in Python 3.11. The multiplexer has its own timeouts.
            "socket_timeout": None,
        },
    )
    return cast(AsyncConnection, client)


def _warn_if_unverified(settings: ClientSettings) -> None:
    url = settings.redis
    if url.scheme == "rediss" and not url.is_verified and url.address not in _UNVERIFIED:
        _UNVERIFIED.add(url.address)
        logger.warning(
            "the certificate of Redis at %s is not verified (ssl_cert_reqs=%s, "
            "ssl_check_hostname=%s in PENSTOCK_REDIS_URL): another server can read the password",
            url.address,
            url.tls["ssl_cert_reqs"],
            url.tls["ssl_check_hostname"],
        )


def redis_address(settings: ClientSettings) -> str:
    """The address of Redis for messages, without user and password."""
    return settings.redis.address


@contextmanager
def _secrets_removed() -> Iterator[None]:
    """Remove the password from errors: a server that lacks a command quotes its arguments."""
    try:
        yield
    except redis.exceptions.RedisError as error:
        redact_exception(error)
        raise


@contextmanager
def redis_errors_translated(settings: ClientSettings) -> Iterator[None]:
    """Translate the driver's errors to `RedisUnavailable`, whose message says what to do."""
    try:
        with _secrets_removed():
            yield
    except redis.exceptions.AuthenticationError as error:
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} refused the user or password "
            f"in PENSTOCK_REDIS_URL: {error}"
        ) from error
    except UNREACHABLE as error:
        if problem := tls_problem(error):
            raise RedisUnavailable(f"Redis at {redis_address(settings)}: {problem}") from error
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} cannot be reached ({error}). Is it running, and "
            f"is PENSTOCK_REDIS_URL correct?{tls_question(settings.redis, error)}"
        ) from error
    except redis.exceptions.OutOfMemoryError as error:
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} is full (maxmemory): nothing can be enqueued."
        ) from error
    except redis.exceptions.NoPermissionError as error:
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} denies this user: {error}"
        ) from error
    except _OF_A_CLUSTER as error:
        raise RedisUnavailable(f"Redis at {redis_address(settings)} {IN_CLUSTER_MODE}") from error
    except redis.exceptions.RedisError as error:
        raise RedisUnavailable(
            f"Redis at {redis_address(settings)} returned an error: {error}"
        ) from error
