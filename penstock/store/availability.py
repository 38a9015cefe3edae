"""Redis may be away for a while: what a stream cannot do without waits until it is back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import redis.exceptions

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Pause before Redis is asked again.
RETRY_S: Final = 0.2

#: Nothing was done, or what was done may be done again. A full Redis is away for writers.
UNAVAILABLE: Final = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    OSError,
)


async def retry_until_available(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of ``ask``, which has to be harmless when it is done twice."""
    while True:
        try:
            return await ask()
        except UNAVAILABLE as error:
            logger.warning("Redis is away, asking again: %s", error)
            await asyncio.sleep(RETRY_S)
