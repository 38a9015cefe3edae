"""Carries the outboxes of all streams of a process to Redis in shared pipelines.

Nothing waits a fixed time: soon after one flush has been answered, everything that has come in
since goes out with the next. When Redis is away the same calls are made again until it is back;
the write script makes that harmless.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import redis

from penstock.keys import Keys
from penstock.store.scripts import Script, script
from tasks.streams.outbox import Outbox
from tasks.streams.script_pipeline import ScriptCall, ScriptPipeline
from workers.loop import BackgroundTasks

logger = logging.getLogger(__name__)

#: Pause before a flush is tried again while Redis is away.
RETRY_S = 0.2
#: Longest pause between two flushes under load.
MAX_PAUSE_S = 0.02
#: So long a Redis that answers and refuses is tried before a stream is given up.
MAX_REFUSAL_S = 300.0
#: The lease is renewed so many times in its life.
RENEWALS_PER_LEASE = 3
#: The streams are renewed in so many parts, one after the other: all at once would hold up what
#: they write.
RENEWAL_GROUPS = 8


class Publisher:
    """Writes what outboxes hold, and renews the leases of their streams."""

    def __init__(self, pipeline: ScriptPipeline, keys: Keys, *, lease_ms: int) -> None:
        self._pipeline = pipeline
        self._keys = keys
        self._lease_ms = lease_ms
        self._write: Script = script("write")
        self._renew: Script = script("renew")
        self._watched: dict[Outbox, Callable[[], None]] = {}
        self._dirty: dict[Outbox, None] = {}
        self._wake = asyncio.Event()
        self._groups: tuple[dict[Outbox, None], ...] = tuple({} for _ in range(RENEWAL_GROUPS))
        self._acknowledged: dict[Outbox, asyncio.Event] = {}
        self._refused_since: dict[Outbox, float] = {}
        self._background = BackgroundTasks()

    def start(self) -> None:
        """Start flushing and renewing on the running loop."""
        self._background.start(self._flush_for_ever())
        self._background.start(self._renew_for_ever())

    def watch(self, outbox: Outbox, interrupt: Callable[[], None]) -> None:
        """Keep the stream's lease; call ``interrupt`` once it is canceled or lost."""
        self._watched[outbox] = interrupt
        self._acknowledged[outbox] = asyncio.Event()
        min(self._groups, key=len)[outbox] = None

    def unwatch(self, outbox: Outbox) -> None:
        """The stream is over for this process."""
        self._watched.pop(outbox, None)
        self._acknowledged.pop(outbox, None)
        self._dirty.pop(outbox, None)
        self._refused_since.pop(outbox, None)
        for group in self._groups:
            group.pop(outbox, None)

    def notify(self, outbox: Outbox) -> None:
        """There is something to write."""
        self._dirty[outbox] = None
        self._wake.set()

    def check_cancel(self, id: str) -> None:
        """Look at a stream's cancel flag now, not with its next write."""
        for outbox in self._watched:
            if outbox.id == id:
                self._background.start(self._renew_now([outbox]))

    async def drain(self, outbox: Outbox) -> None:
        """Wait until everything in the outbox is written, or may not be written any more."""
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
                # One bad call must not end the writing of all streams of this process.
                logger.exception("a flush failed")
                acknowledged = False
            if not acknowledged:
                for outbox, _ in calls:
                    self.notify(outbox)
                await asyncio.sleep(RETRY_S)
            # As long as the flush took, the streams are read: next to nothing at idle. Under load
            # deltas merge meanwhile, and each of them costs less.
            await asyncio.sleep(min(time.monotonic() - began, MAX_PAUSE_S))

    async def _flush(self, calls: list[tuple[Outbox, ScriptCall]]) -> bool:
        """Make the calls in one pipeline; False if Redis is away."""
        replies = await self._pipelined(self._write, [call for _, call in calls])
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
        """Redis says no: full, read only, loading. Nothing of the call was written, and the
        outbox keeps it; but not for ever, since somebody pays for what comes in meanwhile."""
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
            try:
                await self._renew_now(list(group))
            except Exception:
                # One bad answer must not end the renewals of all streams of this process.
                logger.exception("a renewal failed")

    async def _renew_now(self, outboxes: list[Outbox]) -> None:
        sent_n = [outbox.n for outbox in outboxes]
        replies = await self._pipelined(self._renew, [self._renewal(o) for o in outboxes])
        for outbox, n, reply in zip(outboxes, sent_n, replies or [], strict=False):
            self._apply_renewal(outbox, n, reply)

    def _renewal(self, outbox: Outbox) -> ScriptCall:
        keys = outbox.keys
        names = [keys.meta, keys.lease, keys.events, self._keys.live]
        names += [keys.log, keys.text, keys.request]
        return ScriptCall(names, [outbox.worker, outbox.epoch, self._lease_ms, outbox.ttl_s])

    def _apply_renewal(self, outbox: Outbox, sent_n: int, reply: Any) -> None:
        if isinstance(reply, Exception) or outbox not in self._watched or outbox.ending:
            return
        if reply[0] == b"fenced":
            outbox.lost = outbox.lost or "another worker has claimed it, or it has ended"
            self._acknowledged[outbox].set()
        else:
            outbox.cancel = outbox.cancel or reply[1].decode()
            # A write that came in between makes the answer an old one.
            if outbox.n == sent_n and outbox.check_log_end(int(reply[2])):
                self.notify(outbox)
        self._interrupt_if_due(outbox)

    async def _pipelined(self, called: Script, calls: list[ScriptCall]) -> list[Any] | None:
        """Run one script many times in one round trip. None: Redis is away."""
        if not calls:
            return []
        try:
            return await self._pipeline.run(called, calls)
        except (redis.ConnectionError, redis.TimeoutError, TimeoutError, OSError) as error:
            logger.warning("Redis is away, trying again: %s", str(error) or "it does not answer")
            return None
