"""Carries the outboxes of all streams of a process to Redis in shared pipelines.

Nothing waits a fixed time: soon after one flush has been answered, everything that has come in
since goes out with the next. When Redis is away the same calls are made again until it is back;
the write script makes that harmless.
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
from tasks.streams.outbox import Call, Outbox
from tasks.streams.script_pipeline import Pipe

logger = logging.getLogger(__name__)

#: Pause before a flush is tried again while Redis is away.
RETRY_S = 0.2
#: Longest pause between two flushes under load.
LONGEST_PAUSE_S = 0.02
#: So long a Redis that answers and refuses is tried before a stream is given up.
PATIENCE_S = 300.0
#: The lease is renewed so many times in its life.
RENEWALS = 3
#: The streams are renewed in so many parts, one after the other: all at once would hold up what
#: they write.
PARTS = 8


class Publisher:
    """Writes what outboxes hold, and renews the leases of their streams."""

    def __init__(self, pipe: Pipe, keys: Keys, *, lease_ms: int) -> None:
        self._pipe = pipe
        self._keys = keys
        self._lease_ms = lease_ms
        self._watched: dict[Outbox, Callable[[], None]] = {}
        self._dirty: dict[Outbox, None] = {}
        self._wake = asyncio.Event()
        self._parts: tuple[dict[Outbox, None], ...] = tuple({} for _ in range(PARTS))
        self._settled: dict[Outbox, asyncio.Event] = {}
        self._refused_since: dict[Outbox, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start flushing and renewing on the running loop."""
        self._tasks = [
            asyncio.create_task(self._flush_for_ever()),
            asyncio.create_task(self._renew_for_ever()),
        ]

    def watch(self, outbox: Outbox, interrupt: Callable[[], None]) -> None:
        """Keep the stream's lease; call ``interrupt`` once it is canceled or lost."""
        self._watched[outbox] = interrupt
        self._settled[outbox] = asyncio.Event()
        min(self._parts, key=len)[outbox] = None

    def forget(self, outbox: Outbox) -> None:
        """The stream is over for this process."""
        self._watched.pop(outbox, None)
        self._settled.pop(outbox, None)
        self._dirty.pop(outbox, None)
        self._refused_since.pop(outbox, None)
        for part in self._parts:
            part.pop(outbox, None)

    def notify(self, outbox: Outbox) -> None:
        """There is something to write."""
        self._dirty[outbox] = None
        self._wake.set()

    def look(self, id: str) -> None:
        """Look at a stream's cancel flag now, not with its next write."""
        for outbox in self._watched:
            if outbox.id == id:
                self._looked = asyncio.ensure_future(self._renew_now([outbox]))

    async def drain(self, outbox: Outbox) -> None:
        """Wait until everything in the outbox is written, or may not be written any more."""
        self.notify(outbox)
        while not outbox.settled:
            settled = self._settled[outbox]
            settled.clear()
            await settled.wait()

    async def _flush_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            dirty, self._dirty = list(self._dirty), {}
            calls = [(outbox, call) for outbox in dirty if (call := outbox.take()) is not None]
            began = time.monotonic()
            try:
                stands = not calls or await self._flush(calls)
            except Exception:
                # One bad call must not end the writing of all streams of this process.
                logger.exception("a flush failed")
                stands = False
            if not stands:
                for outbox, _ in calls:
                    self.notify(outbox)
                await asyncio.sleep(RETRY_S)
            # As long as the flush took, the streams are read: next to nothing at idle. Under load
            # deltas merge meanwhile, and each of them costs less.
            await asyncio.sleep(min(time.monotonic() - began, LONGEST_PAUSE_S))

    async def _flush(self, calls: list[tuple[Outbox, Call]]) -> bool:
        """Make the calls in one pipeline; False if Redis is away."""
        replies = await self._pipelined([call for _, call in calls])
        if replies is None:
            return False
        for (outbox, _), reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                self._refused(outbox, reply)
            else:
                self._refused_since.pop(outbox, None)
                outbox.settle(reply)
            self._after(outbox)
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
        if now - since > PATIENCE_S:
            outbox.lost = f"Redis has refused to write for {PATIENCE_S:.0f} s: {error}"

    def _after(self, outbox: Outbox) -> None:
        if not outbox.settled:
            self.notify(outbox)
        elif outbox in self._settled:
            self._settled[outbox].set()
        self._interrupt_if_due(outbox)

    def _interrupt_if_due(self, outbox: Outbox) -> None:
        if (outbox.cancel or outbox.lost) and outbox in self._watched:
            self._watched[outbox]()

    async def _renew_for_ever(self) -> None:
        for part in itertools.cycle(self._parts):
            await asyncio.sleep(self._lease_ms / 1000 / RENEWALS / PARTS)
            try:
                await self._renew_now(list(part))
            except Exception:
                # One bad answer must not end the renewals of all streams of this process.
                logger.exception("a renewal failed")

    async def _renew_now(self, outboxes: list[Outbox]) -> None:
        stood = [outbox.n for outbox in outboxes]
        replies = await self._pipelined([self._renewal(o) for o in outboxes])
        for outbox, n, reply in zip(outboxes, stood, replies or [], strict=False):
            self._take_renewal(outbox, n, reply)

    def _renewal(self, outbox: Outbox) -> ScriptCall[Renewed | Fenced]:
        return request_scripts.renew(
            outbox.keys,
            self._keys,
            worker=outbox.worker,
            epoch=outbox.epoch,
            lease_ms=self._lease_ms,
            ttl_s=outbox.ttl_s,
        )

    def _take_renewal(self, outbox: Outbox, stood: int, reply: Any) -> None:
        if isinstance(reply, Exception) or outbox not in self._watched or outbox.ending:
            return
        renewed = request_scripts.renew_reply(reply)
        if isinstance(renewed, Fenced):
            outbox.lost = outbox.lost or "another worker has claimed it, or it has ended"
            self._settled[outbox].set()
        else:
            outbox.cancel = outbox.cancel or renewed.cancel
            # A write that came in between makes the answer an old one.
            if outbox.n == stood and outbox.forgotten(renewed.n):
                self.notify(outbox)
        self._interrupt_if_due(outbox)

    async def _pipelined(self, calls: Sequence[ScriptCall[Any]]) -> list[Any] | None:
        """Make calls of one script in one round trip. None: Redis is away."""
        if not calls:
            return []
        try:
            return await self._pipe.run(calls[0].script, calls)
        except CONNECTION_LOST as error:
            logger.warning("Redis is away, trying again: %s", str(error) or "it does not answer")
            return None
