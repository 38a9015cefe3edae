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

from redis.exceptions import RedisError

from penstock.access.redaction import redacted
from penstock.keys import Keys
from penstock.store import request_scripts
from penstock.store.availability import ANY_FAILURE, is_unavailable, outage
from penstock.store.request_scripts import Renewed
from penstock.store.scripts import Fenced, ScriptCall
from tasks.streams.publish.outbox import Outbox, WriteCall
from tasks.streams.publish.script_pipeline import MIN_BYTES_PER_S, ScriptPipeline
from workers.loop import BackgroundTasks, exit_process

logger = logging.getLogger(__name__)

#: Seconds until a flush is retried while Redis is unavailable, or the call of one stream while
#: Redis refuses it.
RETRY_S = 0.2
#: Bytes of a call from which it has a round trip of its own: no other stream waits for it.
LARGE_CALL_BYTES = MIN_BYTES_PER_S
#: Large calls at the same time, of the connections that all commands of the process share.
LARGE_CALLS_LIMIT = 4
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

    def __init__(
        self,
        pipeline: ScriptPipeline,
        keys: Keys,
        *,
        lease_ms: int,
        on_dead: Callable[[str], None] = exit_process,
    ) -> None:
        """``on_dead`` is called with the reason once nothing can be written or renewed."""
        self._pipeline = pipeline
        self._keys = keys
        self._lease_ms = lease_ms
        self._watched: dict[Outbox, Callable[[], None]] = {}
        self._dirty: dict[Outbox, None] = {}
        self._wake = asyncio.Event()
        self._groups: tuple[dict[Outbox, None], ...] = tuple({} for _ in range(RENEWAL_GROUPS))
        self._acknowledged: dict[Outbox, asyncio.Event] = {}
        self._refused_since: dict[Outbox, float] = {}
        # Not written until the timer fires, or (None) until their large call is answered.
        self._held: dict[Outbox, asyncio.TimerHandle | None] = {}
        self._large_calls = asyncio.Semaphore(LARGE_CALLS_LIMIT)
        self._background = BackgroundTasks(on_dead)

    def start(self) -> None:
        """Start flushing and renewing on the running event loop."""
        self._background.keep("writing events", self._flush_for_ever, essential=True)
        self._background.keep("renewing leases", self._renew_for_ever, essential=True)

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
        outage.end(outbox, served=False)
        if timer := self._held.pop(outbox, None):
            timer.cancel()
        for group in self._groups:
            group.pop(outbox, None)

    def notify(self, outbox: Outbox) -> None:
        """Write the outbox with the next flush, or as soon as it is no longer held."""
        if outbox in self._held:
            return
        self._dirty[outbox] = None
        self._wake.set()

    def check_cancel(self, id: str) -> None:
        """Read a stream's cancel flag now instead of with its next write."""
        for outbox in self._watched:
            if outbox.id == id:
                self._background.start(self._check_now(outbox))

    async def drain(self, outbox: Outbox) -> None:
        """Wait until Redis has acknowledged the whole outbox, or the claim is lost."""
        self.notify(outbox)
        while not outbox.acknowledged:
            acknowledged = self._acknowledged[outbox]
            acknowledged.clear()
            await acknowledged.wait()

    async def _flush_for_ever(self) -> None:
        self._notify_all(list(self._watched))  # an earlier run may have failed in a flush
        while True:
            await self._wake.wait()
            self._wake.clear()
            dirty, self._dirty = list(self._dirty), {}
            calls = [(outbox, call) for outbox in dirty if (call := self._next_call(outbox))]
            began = time.monotonic()
            if calls and not await self._flush(calls):
                self._notify_all([outbox for outbox, _ in calls])
                await asyncio.sleep(RETRY_S)
            # Pause for as long as the flush took, so that the API's events can be read: close to
            # nothing when idle. Under load more deltas merge during the pause and cost less each.
            await asyncio.sleep(min(time.monotonic() - began, MAX_PAUSE_S))

    def _notify_all(self, outboxes: list[Outbox]) -> None:
        for outbox in outboxes:
            if outbox in self._watched:
                self.notify(outbox)

    def _next_call(self, outbox: Outbox) -> WriteCall | None:
        """Return the call to make with those of the other streams; a large one is made alone."""
        try:
            call = outbox.next_call()
        except Exception as error:
            self._fail(outbox, error)
            return None
        if call is None or outbox.call_bytes < LARGE_CALL_BYTES:
            return call
        self._held[outbox] = None
        self._background.start(self._write_alone(outbox, call))
        return None

    async def _write_alone(self, outbox: Outbox, call: WriteCall) -> None:
        replies: list[Any] | None
        try:
            async with self._large_calls:
                replies = await self._pipelined([call])
        except Exception as error:
            replies = [error]
        self._held.pop(outbox, None)
        if replies is not None:
            self._take_reply(outbox, replies[0])
        elif outbox in self._watched:
            self._hold(outbox)

    async def _flush(self, calls: list[tuple[Outbox, WriteCall]]) -> bool:
        """Make the calls in one pipeline; False if Redis is unavailable."""
        replies = await self._pipelined([call for _, call in calls])
        if replies is None:
            return False
        for (outbox, _), reply in zip(calls, replies, strict=True):
            self._take_reply(outbox, reply)
        return True

    def _take_reply(self, outbox: Outbox, reply: Any) -> None:
        try:
            self._apply_reply(outbox, reply)
        except Exception as error:
            self._fail(outbox, error)

    def _apply_reply(self, outbox: Outbox, reply: Any) -> None:
        if isinstance(reply, RedisError):
            self._refused(outbox, reply)
        elif isinstance(reply, Exception):
            raise reply
        else:
            outage.end(outbox)
            self._refused_since.pop(outbox, None)
            outbox.apply_reply(reply)
        self._after_reply(outbox)

    def _fail(self, outbox: Outbox, error: Exception) -> None:
        """Give up a stream whose events cannot be written because of a bug.

        The other streams continue; the relay ends this one with an error.
        """
        logger.error("the events of request %s cannot be written", outbox.id, exc_info=error)
        outbox.fault = f"{type(error).__name__} in the worker"
        outbox.lost = outbox.lost or "its events cannot be written because of a bug in penstock"
        self._after_reply(outbox)

    def _refused(self, outbox: Outbox, error: Exception) -> None:
        """Handle a call that Redis refuses because it is full, read-only or loading.

        Nothing was written, and the outbox keeps the call, but not for ever: the API bills what it
        generates until then.
        """
        if outbox not in self._watched:
            return  # its run ended while the call was outstanding
        now = time.monotonic()
        since = self._refused_since.setdefault(outbox, now)
        if is_unavailable(error):
            outage.note(outbox, error)
        elif now == since:
            logger.warning("Redis refuses to write %s: %s", outbox.id, error)
        if now - since > MAX_REFUSAL_S:
            words = redacted(str(error))
            outbox.lost = f"Redis has refused to write for {MAX_REFUSAL_S:.0f} s: {words}"
            return
        self._hold(outbox)  # only this stream waits: the fault may be that of its keys

    def _hold(self, outbox: Outbox) -> None:
        """Repeat the outbox's call in a moment, and not before."""
        self._dirty.pop(outbox, None)
        loop = asyncio.get_running_loop()
        self._held[outbox] = loop.call_later(RETRY_S, self._release, outbox)

    def _release(self, outbox: Outbox) -> None:
        del self._held[outbox]
        self.notify(outbox)

    def _after_reply(self, outbox: Outbox) -> None:
        if outbox not in self._watched:
            return
        if not outbox.acknowledged:
            self.notify(outbox)
        else:
            self._acknowledged[outbox].set()
        self._interrupt_if_due(outbox)

    def _interrupt_if_due(self, outbox: Outbox) -> None:
        if (outbox.cancel or outbox.lost) and outbox in self._watched:
            self._watched[outbox]()

    async def _renew_for_ever(self) -> None:
        failures = 0
        for group in itertools.cycle(self._groups):
            await asyncio.sleep(self._lease_ms / 1000 / RENEWALS_PER_LEASE / RENEWAL_GROUPS)
            try:
                await self._renew(list(group))
                failures = 0 if group else failures
            except Exception:
                # One bad group must not stop the renewals of all streams of this process.
                logger.exception("a renewal failed")
                failures += 1
                if failures >= RENEWAL_GROUPS:
                    raise

    async def _check_now(self, outbox: Outbox) -> None:
        try:
            await self._renew([outbox])
        except Exception:
            logger.exception("the cancel flag of request %s could not be read", outbox.id)

    async def _renew(self, outboxes: list[Outbox]) -> None:
        sent_n = [outbox.n for outbox in outboxes]
        replies = await self._pipelined([self._renewal(o) for o in outboxes])
        for outbox, n, reply in zip(outboxes, sent_n, replies or [], strict=False):
            try:
                self._apply_renewal(outbox, n, reply)
            except Exception:
                # The next renewal repeats it, and one bad reply must not stop those of the others.
                logger.exception("a renewal of request %s failed", outbox.id)

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
            replies = await self._pipeline.run(calls)
        except ANY_FAILURE as error:
            outage.note(self, error)
            return None
        outage.end(self)
        return replies
