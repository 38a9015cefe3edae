"""Which errors mean that Redis is unavailable, and how to wait until it is available again.

Every module that retries or reports such errors uses one of these rules. They differ in what a
caller may repeat: a reader retries what it cannot reach, a writer also what Redis refuses for now.
"""

import asyncio
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Hashable
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

#: What a writer retries by the error's class: `is_unavailable` knows those without one as well.
UNAVAILABLE: Final = (
    *CONNECTION_LOST,
    redis.exceptions.InvalidResponse,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
)

#: The codes of such errors, with which a message begins; before Redis 7, a script's error has a
#: minus sign before the code.
_CODES: Final = re.compile(
    r"(^|\s-)(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|OOM|READONLY"
    r"|TRYAGAIN|UNBLOCKED|max number of clients reached|ACL failure in script)\b"
)

#: For loops that continue whatever Redis answers, a missing permission included.
ANY_FAILURE: Final = (redis.exceptions.RedisError, OSError)


def is_unavailable(error: BaseException) -> bool:
    """Return whether Redis cannot be reached, or refuses commands whatever their keys hold.

    For writers: the command had no effect, or may be repeated, and will work once Redis has free
    memory, its primary, a disk, its permissions and so on. What concerns a key, such as WRONGTYPE,
    does not count.

    >>> is_unavailable(redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file"))
    True
    """
    if isinstance(error, UNAVAILABLE):
        return True
    return isinstance(error, redis.exceptions.ResponseError) and bool(_CODES.search(str(error)))


class Outage:
    """Logs one line when Redis becomes unavailable to this process, and one when it is back.

    Every part of the process that waits for Redis reports here, from any thread. A part is any
    hashable value.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: set[Hashable] = set()

    def note(self, part: Hashable, error: BaseException) -> None:
        """Log the error, unless a part waits already."""
        with self._lock:
            began = not self._parts
            self._parts.add(part)
        level = logging.WARNING if began else logging.DEBUG
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        logger.log(level, "Redis is unavailable or refuses commands, retrying: %s", what)

    def end(self, part: Hashable, *, served: bool = True) -> None:
        """Log that Redis is back, if this was the last part that waited.

        ``served``: False if the part stops waiting for another reason, which is not logged.
        """
        if part not in self._parts:
            return
        with self._lock:
            self._parts.discard(part)
            ended = served and not self._parts
        if ended:
            logger.warning("Redis is available again")

    def affects(self, part: Hashable) -> bool:
        """Return whether this part waits."""
        return part in self._parts


#: The outage of this process.
outage: Final = Outage()


async def retry_until_available(command: Callable[[], Awaitable[T]]) -> T:
    """Run ``command`` until Redis is available, and return the reply.

    The command must be harmless when it runs twice: the reply to the first run may be lost. Raises
    errors that are not `is_unavailable`.
    """
    part = object()
    try:
        while True:
            try:
                reply = await command()
            except ANY_FAILURE as error:
                if not is_unavailable(error):
                    raise
                outage.note(part, error)
                await asyncio.sleep(RETRY_S)
            else:
                outage.end(part)
                return reply
    finally:
        outage.end(part, served=False)
