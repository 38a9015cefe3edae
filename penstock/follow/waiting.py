"""Decides which errors of Redis a reader waits out, and repeats single reads until they succeed.

One rule for all readers. A reader waits while Redis cannot be reached, and whatever error Redis
replies, unless waiting cannot help: the user lacks a permission, or a key is not what it should be.
It waits for its timeout or, without one, `MAX_UNAVAILABLE_S`; then it raises `RedisUnavailable`.
The first call of a program, such as `request` or `text`, does not wait: a web request that finds
Redis unavailable needs its error within seconds.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import redis.exceptions as redis_errors

from penstock.store.availability import CONNECTION_LOST

T = TypeVar("T")

#: Maximum seconds that a reader without a timeout waits for an unavailable Redis.
MAX_UNAVAILABLE_S = 60.0
#: Seconds until an unavailable Redis is asked again, unless the multiplexer reconnects earlier.
RETRY_S: Final = 1.0

_PERMANENT: Final = (
    redis_errors.NoPermissionError,
    redis_errors.MovedError,
    redis_errors.AskError,
    redis_errors.ClusterCrossSlotError,
)
#: The same as text, where the driver has no class: by the code of the reply, or by what follows
#: the code ``ERR``, which the driver removes.
_PERMANENT_TEXT: Final = re.compile(
    r"(WRONGTYPE|DENIED|NOPROTO) |ACL failure|unknown (sub)?command|wrong number of arguments"
    r"|syntax error|Invalid stream ID",
    re.IGNORECASE,
)


def may_succeed_later(error: BaseException) -> bool:
    """Whether a read that failed with ``error`` is repeated.

    >>> may_succeed_later(redis_errors.ResponseError("BUSY Redis is busy running a script."))
    True
    >>> may_succeed_later(redis_errors.NoPermissionError("User reader has no permissions"))
    False
    """
    if isinstance(error, CONNECTION_LOST):
        return True
    if isinstance(error, _PERMANENT) or not isinstance(error, redis_errors.ResponseError):
        return False
    return _PERMANENT_TEXT.match(str(error)) is None


def is_refusal(error: BaseException) -> bool:
    """Whether Redis has answered, if only with an error, so that its address is correct."""
    return isinstance(error, redis_errors.ResponseError | redis_errors.BusyLoadingError)


def read_waiting(read: Callable[[], T], timeout: float | None = None) -> T:
    """Return what ``read`` returns, and repeat it while Redis is unavailable.

    Raises what ``read`` raised last if waiting does not help, or does not help in time.
    """
    deadline = _deadline(timeout)
    while True:
        try:
            return read()
        except (redis_errors.RedisError, OSError) as error:
            if not may_succeed_later(error) or time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_S)


async def read_waiting_async(read: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
    """Like `read_waiting`, on an event loop."""
    deadline = _deadline(timeout)
    while True:
        try:
            return await read()
        except (redis_errors.RedisError, OSError) as error:
            if not may_succeed_later(error) or time.monotonic() >= deadline:
                raise
        await asyncio.sleep(RETRY_S)


def _deadline(timeout: float | None) -> float:
    return time.monotonic() + (MAX_UNAVAILABLE_S if timeout is None else timeout)
