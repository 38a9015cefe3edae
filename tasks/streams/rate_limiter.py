"""The rate gate: all workers of a deployment share what the API says about its limits.

A request that may not be called yet goes back to the queue by countdown and holds no slot. The
decision is one script, so that workers cannot spend the same allowance twice.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from penstock.keys import Keys
from penstock.store.availability import UNAVAILABLE, retry_until_available
from penstock.store.connection import Connection
from penstock.store.scripts import script
from workers.loop import BackgroundTasks

logger = logging.getLogger(__name__)

#: Calls without an answer to allow while nothing is known about the limit.
FIRST_CALLS: Final = 20
#: A call that has had no answer for so long is lost with its worker.
LOST_AFTER_MS: Final = 120_000
_LIMIT: Final = "anthropic-ratelimit-requests-"


class RateLimiter:
    """Asks before a call, and reports after it."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection
        self._keys = keys
        self._background = BackgroundTasks()

    async def acquire(self, model: str, id: str) -> float:
        """Seconds to wait before the call may be made; 0 to make it now."""
        names = self._names(model)
        args = [id, FIRST_CALLS, LOST_AFTER_MS]
        answer = await retry_until_available(
            lambda: script("rate_limit_acquire").run(self._redis, names, args)
        )
        return int(answer) / 1000

    async def report(
        self,
        model: str,
        id: str,
        headers: Mapping[str, str],
        *,
        refused: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        """Tell what the API answered: its headers, and whether it refused the call for now.

        Advice for others: an answer that is under way does not wait for a Redis that is away.
        """
        after = "" if retry_after_s is None else int(retry_after_s * 1000)
        args = [id, "1" if refused else "", after, *limit_of(headers, time.time())]
        try:
            await script("rate_limit_report").run(self._redis, self._names(model), args)
        except UNAVAILABLE as error:
            logger.warning("the rate gate was not told of an answer: %s", error)

    def release(self, model: str, id: str) -> None:
        """A call was given up before its answer; it stands in nobody's way any more."""

        async def forget() -> None:
            with suppress(*UNAVAILABLE):
                await self._redis.zrem(self._keys.rate_limit_calls(model), id)

        self._background.start(forget())

    def _names(self, model: str) -> list[str]:
        keys = self._keys
        return [keys.rate_limit(model), keys.rate_limit_calls(model), keys.rate_limit_turns(model)]


def limit_of(headers: Mapping[str, str], now: float) -> list[Any]:
    """Requests limit, requests remaining and ms until the limit is full again, from the API's
    headers; three times ``""`` where it did not say, or said it in another form."""
    try:
        limit = int(headers[f"{_LIMIT}limit"])
        remaining = int(headers[f"{_LIMIT}remaining"])
        reset = datetime.fromisoformat(headers[f"{_LIMIT}reset"]).timestamp()
    except (KeyError, ValueError):
        return ["", "", ""]
    if limit < 1:
        return ["", "", ""]
    return [limit, remaining, max(0, int((reset - now) * 1000))]
