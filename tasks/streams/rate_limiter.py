"""The rate gate: all workers of a deployment share what the API says about its limits.

A request that may not be called yet goes back to the queue by countdown and holds no slot. The
decision is one script, so that workers cannot spend the same allowance twice.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final

from penstock.keys import Keys
from penstock.store import limit_scripts
from penstock.store.availability import UNAVAILABLE, retry_until_available
from penstock.store.connection import Connection
from penstock.store.limit_scripts import RequestLimit

logger = logging.getLogger(__name__)

#: Calls without an answer to allow while nothing is known about the limit.
FIRST_CALLS: Final = 20
#: A call that has had no answer for so long is lost with its worker.
LOST_AFTER_MS: Final = 120_000
_LIMIT: Final = "anthropic-ratelimit-requests-"


class Gate:
    """Asks before a call, and reports after it."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection
        self._keys = keys
        self._forgetting: set[asyncio.Future[None]] = set()  # asyncio itself keeps no hold of them

    async def wait_s(self, model: str, id: str) -> float:
        """Seconds to wait before the call may be made; 0 to make it now."""
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
        """Tell what the API answered: its headers, and whether it refused the call for now.

        Advice for others: an answer that is under way does not wait for a Redis that is away.
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
            logger.warning("the rate gate was not told of an answer: %s", error)

    def call_off(self, model: str, id: str) -> None:
        """A call was given up before its answer; it stands in nobody's way any more."""

        async def forget() -> None:
            with suppress(*UNAVAILABLE):
                await self._redis.zrem(self._keys.rate_limit_calls(model), id)

        task = asyncio.ensure_future(forget())
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)


def limit_of(headers: Mapping[str, str], now: float) -> RequestLimit | None:
    """What the API's headers say of the limit on requests; None where they do not, or say it in
    another form."""
    try:
        limit = int(headers[f"{_LIMIT}limit"])
        remaining = int(headers[f"{_LIMIT}remaining"])
        reset = datetime.fromisoformat(headers[f"{_LIMIT}reset"]).timestamp()
    except (KeyError, ValueError):
        return None
    if limit < 1:
        return None
    return RequestLimit(limit, remaining, max(0, int((reset - now) * 1000)))
