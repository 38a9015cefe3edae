"""The reaper: wakes requests and shards whose worker or message was lost, and ends requests whose
deadline passes in the queue.

The leases of a dead worker expire, and a Celery message can be lost. Every request and shard that
has not ended is therefore in a sorted set, with the time of its next check. Each worker runs a
reaper; the one that holds the reaper's key in Redis does the checks.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import orjson
from kombu.exceptions import OperationalError
from redis.exceptions import NoPermissionError, ResponseError

from config.settings import WorkerSettings
from penstock import events
from penstock.batches.shard import Shard
from penstock.queue.names import STREAMS_QUEUE, queue_keys
from penstock.store import reaper_scripts, request_scripts, shard_scripts
from penstock.store.availability import ANY_FAILURE, is_unavailable, outage
from penstock.store.connection import AsyncConnection
from penstock.store.reaper_scripts import IndexPage
from penstock.store.record import DEFAULT_PRIORITY
from penstock.store.request_scripts import ReaperAction, UnclaimedEnd
from penstock.streams.records import DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_AFTER_LOSS

logger = logging.getLogger(__name__)

#: Maximum seconds between two ticks. With the lease they bound the time until a lost worker is
#: noticed.
TICK_S = 0.5
#: Minimum ticks in the time of one lease. Redis counts as interrupted after half of that time.
TICKS_PER_LEASE = 6
#: Maximum requests, and maximum shards, checked in one tick.
PAGE = 200
#: Maximum characters of a model's name in a wake-up, where Flower shows it.
MODEL_LIMIT = 256
#: Minimum seconds between two log lines about members that were removed from one index.
REPORT_S = 60.0
#: Maximum members whose failed check is remembered, so that it is logged once.
REPORTED_LIMIT = 1_000
#: Milliseconds until a record that cannot be checked is checked again.
ODD_RECORD_WAIT_MS = 60_000
#: Seconds between two clean-ups.
CLEAN_UP_S = 60.0

#: The end of a request whose deadline passes while no worker holds it.
_DEADLINE_END, _DEADLINE_END_AFTER_LOSS = (
    UnclaimedEnd(
        orjson.dumps({"type": events.END, "state": "failed", "stop_reason": None, "error": error}),
        orjson.dumps(error),
    )
    for error in (DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_AFTER_LOSS)
)

#: Sends the wake-up of a request: id, model, priority.
SendRequest = Callable[[str, str, int], None]
#: Sends the wake-up of a shard: job, shard number, model, step.
SendShard = Callable[[str, int, str, str], None]


class Reaper:
    """Finds requests and shards that need another wake-up, and sends it."""

    def __init__(
        self,
        settings: WorkerSettings,
        connection: AsyncConnection,
        worker: str,
        send_request: SendRequest,
        send_shard: SendShard,
        clean_up: Callable[[], None] | None = None,
    ) -> None:
        """``clean_up`` is called once a minute, in a thread of its own, and may block."""
        self._settings = settings
        self._redis = connection
        self._worker = worker
        self._send_request = send_request
        self._send_shard = send_shard
        self._clean_up = clean_up
        self._cleaned_at = 0.0
        self._cleaning: asyncio.Task[None] | None = None
        self._refused = False  # Redis has refused a tick since the last one that succeeded
        # index → members removed since they were last logged, and when that was
        self._removed: dict[str, tuple[int, float]] = {}
        # members whose check failed, so that each is logged once
        self._reported: dict[str, None] = {}

    async def run(self) -> None:
        """Reap until canceled; waits while Redis is unavailable."""
        # Checked on every tick: redis-py sends inside `asyncio.wait_for`, which in Python 3.11
        # swallows a cancellation that arrives just as the sending completes.
        task = asyncio.current_task()
        while task is None or not task.cancelling():
            await asyncio.sleep(min(TICK_S, self._settings.lease_ms / 1000 / TICKS_PER_LEASE))
            try:
                if await self._tick():
                    await self._reap()
                outage.end(self)
            except (*ANY_FAILURE, OperationalError) as error:
                outage.note(self, error)
            except Exception:
                # A reaper that ends goes unnoticed until requests hang.
                logger.exception("reaper tick failed; continuing")

    async def _tick(self) -> bool:
        """Report that this worker can write. Returns whether it is the reaper.

        The scripts that claim compare the time of the last report with Redis's clock: this is how
        they notice that Redis took no writes for a while.
        """
        call = reaper_scripts.tick(
            self._settings.keys,
            worker=self._worker,
            lease_ms=self._settings.lease_ms,
            refused=self._refused,
        )
        try:
            tick = await call.run_async(self._redis)
        except ResponseError as error:
            # Full, or a replica: a state of Redis in which no worker can renew a lease either.
            self._refused = not isinstance(error, NoPermissionError)
            raise
        self._refused = False
        for key in tick.removed:
            logger.error("%s had the wrong type and was removed; its members are lost", key)
        return tick.is_reaper

    async def _reap(self) -> None:
        keys = self._settings.keys
        due = await self._due(keys.live, "id")
        if due:
            next_ids = await self._next_messages()
            for id in due:
                await self._check(keys.live, id, self._check_request(id, next_ids))
        for member in await self._due(keys.live_shards, "shard"):
            await self._check(keys.live_shards, member, self._check_shard(member))
        self._clean_up_if_due()

    async def _check(self, live: str, member: str, check: Coroutine[Any, Any, None]) -> None:
        """Make one check. If it fails, check this member later and continue with others."""
        try:
            await check
        except Exception as error:
            if is_unavailable(error) or isinstance(error, OperationalError):
                raise
            if member not in self._reported:
                logger.exception("%s cannot be checked; it is checked again later", member)
            self._reported[member] = None
            if len(self._reported) > REPORTED_LIMIT:
                del self._reported[next(iter(self._reported))]
            seconds, _ = await self._redis.time()
            later_ms = seconds * 1000 + ODD_RECORD_WAIT_MS
            await self._redis.zadd(live, {member: later_ms}, xx=True)

    def _clean_up_if_due(self) -> None:
        if self._clean_up is None or (
            self._cleaned_at and time.monotonic() - self._cleaned_at < CLEAN_UP_S
        ):
            return
        if self._cleaning is None or self._cleaning.done():
            self._cleaned_at = time.monotonic()
            self._cleaning = asyncio.create_task(self._clean_up_now(self._clean_up))

    async def _clean_up_now(self, clean_up: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(clean_up)
        except Exception:
            logger.exception("the clean-up failed; it will be retried")

    async def _due(self, live: str, kind: Literal["id", "shard"]) -> tuple[str, ...]:
        page = await reaper_scripts.index_page(live, kind, limit=PAGE, only_due=True).run_async(
            self._redis
        )
        self._report_removed(live, page)
        return page.members

    def _report_removed(self, live: str, page: IndexPage) -> None:
        """Log the members that were removed, at most once a minute for each index."""
        if not page.removed:
            return
        count, logged_at = self._removed.get(live, (0, 0.0))
        count += page.removed
        if not logged_at or time.monotonic() - logged_at > REPORT_S:
            what = (count, live, page.example)
            logger.error("%d members of %s were removed: they name no record, as %r", *what)
            count, logged_at = 0, time.monotonic()
        self._removed[live] = (count, logged_at)

    async def _check_shard(self, member: str) -> None:
        job, _, number = member.partition("/")
        shard = int(number)
        shared = self._settings.keys
        reaped = await shard_scripts.reap(
            shared.job(job),
            shared,
            shard,
            check_after_ms=int(self._settings.wakeup_retry_s * 1000),
            lease_ms=self._settings.lease_ms,
        ).run_async(self._redis)
        if reaped.action is ReaperAction.WAKE:
            found = Shard.parse_or_placeholder(reaped.record, shard)
            logger.info("job %s shard %s: sending a wake-up for %s", job, shard, found.step)
            await asyncio.to_thread(self._send_shard, job, shard, found.model, found.step)

    async def _check_request(self, id: str, next_ids: list[str]) -> None:
        keys, shared = self._settings.keys.request(id), self._settings.keys
        try:
            model, stored = await self._redis.hmget(keys.meta, "model", "priority")
        except ResponseError:
            model = stored = None  # not a record: the worker that it wakes reports that
        priority = _priority(stored)
        # Messages are consumed roughly in the order of their ids: one that is older than the next
        # in its list has been consumed already, or was never there.
        next_id = next_ids[priority // 3]
        may_hold = bool(next_id) and next_id <= id
        reaped = await request_scripts.reap(
            keys,
            shared,
            check_after_ms=int(self._settings.wakeup_retry_s * 1000),
            may_be_queued=may_hold,
            deadline=_DEADLINE_END,
            deadline_after_loss=_DEADLINE_END_AFTER_LOSS,
            retention_s=self._settings.retention_s,
            lease_ms=self._settings.lease_ms,
        ).run_async(self._redis)
        if reaped is ReaperAction.WAKE:
            logger.warning("request %s has no worker; sending a wake-up", id)
            name = (model or b"").decode(errors="replace")[:MODEL_LIMIT]
            await asyncio.to_thread(self._send_request, id, name, priority)

    async def _next_messages(self) -> list[str]:
        """Return the id of the next message to be consumed, for each level of priority."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in queue_keys(STREAMS_QUEUE, self._settings.key_prefix):
                pipe.lindex(name, -1)
            heads: list[Any] = await pipe.execute()
        return [_id_of(head) for head in heads]


def _priority(stored: bytes | None) -> int:
    """Return the priority in a record; what is not one, as in an odd record, counts as default."""
    digits = (stored or b"0").decode(errors="replace")
    return int(digits) if len(digits) == 1 and digits in "0123456789" else DEFAULT_PRIORITY


def _id_of(message: bytes | None) -> str:
    """Return the id of the request that a message wakes; empty if it has none."""
    try:
        return str(orjson.loads(message or b"")["headers"]["id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
