"""The rate limiter that all workers share, fed by the API's headers.

A request that has to wait returns to the queue with a countdown and holds no slot. One
script takes each decision, so two workers cannot use the same allowance.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final

from penstock.keys import Keys
from penstock.store import limit_scripts
from penstock.store.availability import ANY_FAILURE, UNAVAILABLE, retry_until_available
from penstock.store.connection import AsyncConnection
from penstock.store.limit_scripts import RequestLimit
from workers.loop import BackgroundTasks

logger = logging.getLogger(__name__)

#: Maximum calls without a response while the limit is not known yet.
FIRST_CALLS: Final = 20
#: Milliseconds until a call without a response counts as lost with its worker.
LOST_AFTER_MS: Final = 120_000
_LIMIT: Final = "anthropic-ratelimit-requests-"


class RateLimiter:
    """Acquires a place before each call of the API and reports the response after it."""

    def __init__(self, connection: AsyncConnection, keys: Keys) -> None:
        self._redis = connection
        self._keys = keys
        self._background = BackgroundTasks()

    async def acquire(self, model: str, id: str) -> float:
        """Acquire a place for a call; returns the seconds to wait, 0 if it was acquired."""
        acquire = limit_scripts.acquire_rate_limit(
            self._keys, model, id=id, first_calls=FIRST_CALLS, lost_after_ms=LOST_AFTER_MS
        )
        return await retry_until_available(lambda: acquire.run_async(self._redis)) / 1000

    async def report(
        self,
        model: str,
        id: str,
        headers: Mapping[str, str],
        *,
        refused: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        """Record the API's response: its headers, and whether it refused the call for now.

        Best effort, for the benefit of other calls: a running stream never waits for Redis here.
        """
        report = limit_scripts.report_rate_limit(
            self._keys,
            model,
            id=id,
            refused=refused,
            retry_after_ms=None if retry_after_s is None else int(retry_after_s * 1000),
            limit=limit_of(headers, time.time()),
        )
        try:
            await report.run_async(self._redis)
        except UNAVAILABLE as error:
            logger.warning("the rate limiter could not record a response: %s", error)

    def release(self, model: str, id: str) -> None:
        """Release the place of a call that was given up before its response."""

        async def remove() -> None:
            with suppress(*ANY_FAILURE):  # the place is released after a while anyway
                await self._redis.zrem(self._keys.rate_limit_calls(model), id)

        self._background.start(remove())


def limit_of(headers: Mapping[str, str], now: float) -> RequestLimit | None:
    """Read the API's limit on requests. None if the headers are missing or malformed."""
    try:
        limit = int(headers[f"{_LIMIT}limit"])
        remaining = int(headers[f"{_LIMIT}remaining"])
        reset = datetime.fromisoformat(headers[f"{_LIMIT}reset"]).timestamp()
    except (KeyError, ValueError):
        return None
    if limit < 1:
        return None
    return RequestLimit(limit, remaining, max(0, int((reset - now) * 1000)))
