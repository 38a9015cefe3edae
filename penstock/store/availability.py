"""Which errors mean that Redis is unavailable, and how to wait until it is available again.

Every module that retries or reports such errors uses one of these sets. They differ in what a
caller may repeat: a reader retries what it cannot reach, a writer also what Redis refuses for now.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import redis.exceptions

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds until Redis is asked again.
RETRY_S: Final = 0.2

#: What the driver raises when it cannot reach Redis or gets no reply in time. For readers.
UNREACHABLE: Final = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)

#: The same for code that uses a connection below the driver's commands, where nothing translates
#: the errors of sockets and of `asyncio.timeout` (both are `OSError`).
CONNECTION_LOST: Final = (*UNREACHABLE, OSError)

#: The same for writers, to whom a Redis that refuses writes for now is unavailable as well: its
#: memory is full, or it is a replica. The command had no effect, or may be repeated.
UNAVAILABLE: Final = (
    *CONNECTION_LOST,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
)

#: For loops that continue whatever Redis answers, a missing permission included.
ANY_FAILURE: Final = (redis.exceptions.RedisError, OSError)


async def retry_until_available(command: Callable[[], Awaitable[T]]) -> T:
    """Run ``command`` until Redis answers, and return the answer.

    The command must be harmless when it runs twice: the answer to the first run may be lost.
    """
    while True:
        try:
            return await command()
        except UNAVAILABLE as error:
            logger.warning("Redis is unavailable, retrying: %s", error)
            await asyncio.sleep(RETRY_S)
