"""The rate limiter that all workers share, fed by the API's headers.

A request that has to wait returns to the queue with a countdown and holds no slot. One
script takes each decision, so two workers cannot use the same allowance.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from penstock.keys import Keys
from penstock.store import limit_scripts
from penstock.store.availability import (
    ANY_FAILURE,
    is_unavailable,
    outage,
    retry_until_available,
)
from penstock.store.connection import AsyncConnection
from tasks.api.rate_limits import Lane, closed_for_s, reported_limits
from tasks.api.retry import MAX_WAIT_S
from workers.loop import BackgroundTasks

logger = logging.getLogger(__name__)

#: Maximum calls without a response while the limit is not known yet.
FIRST_CALLS: Final = 20
#: Milliseconds until a call without a response counts as lost with its worker.
LOST_AFTER_MS: Final = 120_000


class RateLimiter:
    """Acquires a place before each call of the API and reports the response after it.

    A lane that the rate limiter cannot serve has no limit: the API refuses what is too much, and a
    refused call costs nothing.
    """

    def __init__(self, connection: AsyncConnection, keys: Keys) -> None:
        self._redis = connection
        self._keys = keys
        self._background = BackgroundTasks()

    async def acquire(self, lane: Lane, id: str) -> float:
        """Acquire a place for a call; returns the seconds to wait, 0 if it was acquired.

        At most `MAX_WAIT_S`: a request whose turn is later asks again then, and keeps its turn.
        """
        acquire = limit_scripts.acquire_rate_limit(
            self._keys,
            str(lane),
            id=id,
            first_calls=FIRST_CALLS,
            lost_after_ms=LOST_AFTER_MS,
            max_wait_ms=int(MAX_WAIT_S * 1000),
        )
        try:
            return await retry_until_available(lambda: acquire.run_async(self._redis)) / 1000
        except Exception:
            logger.exception("the rate limiter failed; the call of %s is made", lane)
            return 0.0

    async def report(
        self,
        lane: Lane,
        id: str,
        headers: Mapping[str, str],
        *,
        refused: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        """Record the API's response: its headers, and whether it refused the call for now.

        Best effort, for the benefit of other calls: a running stream never waits for Redis here.
        """
        try:
            reported = reported_limits(lane, headers, time.time())
            closed_s = closed_for_s(reported, refused=refused, retry_after_s=retry_after_s)
            report = limit_scripts.report_rate_limit(
                self._keys,
                str(lane),
                id=id,
                refused=refused,
                closed_for_ms=None if closed_s is None else int(closed_s * 1000),
                limit=reported.requests,
            )
            await report.run_async(self._redis)
            outage.end(self)
        except Exception as error:
            if is_unavailable(error):
                outage.note(self, error)
                return
            logger.exception("the rate limiter could not record a response of %s", lane)

    def release(self, lane: Lane, id: str) -> None:
        """Release the place of a call that was given up before its response."""

        async def remove() -> None:
            with suppress(*ANY_FAILURE):  # the place is released after a while anyway
                await self._redis.zrem(self._keys.rate_limit_calls(str(lane)), id)

        self._background.start(remove())
