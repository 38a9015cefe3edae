"""Writes the outboxes of all streams of a process to Redis in shared pipelines.

There is no fixed flush interval: shortly after Redis has answered one flush, the next one sends
everything that has arrived since. While Redis is unavailable the same calls are retried; the write
script is idempotent.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from penstock.keys import Keys
from penstock.store import request_scripts
from penstock.store.availability import CONNECTION_LOST
from penstock.store.request_scripts import Renewed
from penstock.store.scripts import Fenced, ScriptCall
from tasks.streams.publish.outbox import Outbox, WriteCall
from tasks.streams.publish.script_pipeline import ScriptPipeline
from workers.loop import BackgroundTasks

logger = logging.getLogger(__name__)

#: Seconds until a flush is retried while Redis is unavailable.
RETRY_S = 0.2
#: Maximum seconds between two flushes under load.
MAX_PAUSE_S = 0.02
#: Seconds until a stream is given up when Redis answers but refuses its writes.
MAX_REFUSAL_S = 300.0
#: Renewals of each lease within its lifetime.
RENEWALS_PER_LEASE = 3
#: Groups in which streams are renewed in turn: renewing all at once would delay their writes.
RENEWAL_GROUPS = 8


class Publisher:
    """Writes outboxes to Redis and renews the leases of their streams."""

    def __init__(self, pipeline: ScriptPipeline, keys: Keys, *, lease_ms: int) -> None:
        self._pipeline = pipeline
        self._keys = keys
        self._lease_ms = lease_ms
        self._watched: dict[Outbox, Callable[[], None]] = {}
        self._dirty: dict[Outbox, None] = {}
        self._wake = asyncio.Event()
        self._groups: tuple[dict[Outbox, None], ...] = tuple({} for _ in range(RENEWAL_GROUPS))
        self._acknowledged: dict[Outbox, asyncio.Event] = {}
        self._refused_since: dict[Outbox, float] = {}
        self._background = BackgroundTasks()

    def start(self) -> None:
        """Start flushing and renewing on the running event loop."""
        self._background.start(self._flush_for_ever())
        self._background.start(self._renew_for_ever())

    def watch(self, outbox: Outbox, interrupt: Callable[[], None]) -> None:
        """Renew the stream's lease, and call ``interrupt`` when it is canceled or lost."""
        self._watched[outbox] = interrupt
        self._acknowledged[outbox] = asyncio.Event()
        min(self._groups, key=len)[outbox] = None

    def unwatch(self, outbox: Outbox) -> None:
        """Stop renewing the stream's lease: this process no longer runs it."""
        self._watched.pop(outbox, None)
        self._acknowledged.pop(outbox, None)
        self._dirty.pop(outbox, None)
        self._refused_since.pop(outbox, None)
        for group in self._groups:
            group.pop(outbox, None)

    def notify(self, outbox: Outbox) -> None:
        """Write the outbox with the next flush."""
        self._dirty[outbox] = None
        self._wake.set()

    def check_cancel(self, id: str) -> None:
        """Read a stream's cancel flag now instead of with its next write."""
        for outbox in self._watched:
            if outbox.id == id:
                self._background.start(self._renew([outbox]))

    async def drain(self, outbox: Outbox) -> None:
        """Wait until Redis has acknowledged the whole outbox, or the claim is lost."""
        self.notify(outbox)
        while not outbox.acknowledged:
            acknowledged = self._acknowledged[outbox]
            acknowledged.clear()
            await acknowledged.wait()

    async def _flush_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            dirty, self._dirty = list(self._dirty), {}
            calls = [(outbox, call) for outbox in dirty if (call := outbox.next_call()) is not None]
            began = time.monotonic()
            try:
                acknowledged = not calls or await self._flush(calls)
            except Exception:
                # One bad call must not stop the writes of all streams of this process.
                logger.exception("a flush failed")
                acknowledged = False
            if not acknowledged:
                for outbox, _ in calls:
                    self.notify(outbox)
                await asyncio.sleep(RETRY_S)
            # Pause for as long as the flush took, so that the API's events can be read: close to
            # nothing when idle. Under load more deltas merge during the pause and cost less each.
            await asyncio.sleep(min(time.monotonic() - began, MAX_PAUSE_S))

    async def _flush(self, calls: list[tuple[Outbox, WriteCall]]) -> bool:
        """Make the calls in one pipeline; False if Redis is unavailable."""
        replies = await self._pipelined([call for _, call in calls])
        if replies is None:
            return False
        for (outbox, _), reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                self._refused(outbox, reply)
            else:
                self._refused_since.pop(outbox, None)
                outbox.apply_reply(reply)
            self._after_reply(outbox)
        if any(isinstance(reply, Exception) for reply in replies):
            await asyncio.sleep(RETRY_S)
        return True

    def _refused(self, outbox: Outbox, error: Exception) -> None:
        """Handle a call that Redis refuses because it is full, read-only or loading.

        Nothing was written, and the outbox keeps the call, but not for ever: the API bills what it
        generates until then.
        """
        now = time.monotonic()
        since = self._refused_since.setdefault(outbox, now)
        if now == since:
            logger.warning("Redis refuses to write %s: %s", outbox.id, error)
        if now - since > MAX_REFUSAL_S:
            outbox.lost = f"Redis has refused to write for {MAX_REFUSAL_S:.0f} s: {error}"

    def _after_reply(self, outbox: Outbox) -> None:
        if not outbox.acknowledged:
            self.notify(outbox)
        elif outbox in self._acknowledged:
            self._acknowledged[outbox].set()
        self._interrupt_if_due(outbox)

    def _interrupt_if_due(self, outbox: Outbox) -> None:
        if (outbox.cancel or outbox.lost) and outbox in self._watched:
            self._watched[outbox]()

    async def _renew_for_ever(self) -> None:
        for group in itertools.cycle(self._groups):
            await asyncio.sleep(self._lease_ms / 1000 / RENEWALS_PER_LEASE / RENEWAL_GROUPS)
            await self._renew(list(group))

    async def _renew(self, outboxes: list[Outbox]) -> None:
        try:
            await self._renew_now(outboxes)
        except Exception:
            # One bad reply must not stop the renewals of all streams of this process.
            logger.exception("a renewal failed")

    async def _renew_now(self, outboxes: list[Outbox]) -> None:
        sent_n = [outbox.n for outbox in outboxes]
        replies = await self._pipelined([self._renewal(o) for o in outboxes])
        for outbox, n, reply in zip(outboxes, sent_n, replies or [], strict=False):
            self._apply_renewal(outbox, n, reply)

    def _renewal(self, outbox: Outbox) -> ScriptCall[Renewed | Fenced]:
        return request_scripts.renew(
            outbox.keys,
            self._keys,
            worker=outbox.worker,
            epoch=outbox.epoch,
            lease_ms=self._lease_ms,
            ttl_s=outbox.ttl_s,
        )

    def _apply_renewal(self, outbox: Outbox, sent_n: int, reply: Any) -> None:
        if isinstance(reply, Exception) or outbox not in self._watched or outbox.ending:
            return
        renewed = request_scripts.renew_reply(reply)
        if isinstance(renewed, Fenced):
            outbox.lost = outbox.lost or "another worker has claimed it, or it has ended"
            self._acknowledged[outbox].set()
        else:
            outbox.cancel = outbox.cancel or renewed.cancel
            # If a write was acknowledged in between, the reply is out of date.
            if outbox.n == sent_n and outbox.check_log_end(renewed.n):
                self.notify(outbox)
        self._interrupt_if_due(outbox)

    async def _pipelined(self, calls: Sequence[ScriptCall[Any]]) -> list[Any] | None:
        """Make calls of one script in one round trip. None: Redis is unavailable."""
        if not calls:
            return []
        try:
            return await self._pipeline.run(calls)
        except CONNECTION_LOST as error:
            logger.warning("Redis is unavailable, retrying: %s", str(error) or "no reply")
            return None
