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
from typing import Any

import orjson
from kombu.exceptions import OperationalError

from config.settings import WorkerSettings
from penstock import events
from penstock.batches.shard import Shard
from penstock.queue.names import STREAMS_QUEUE, queue_keys
from penstock.store import request_scripts, shard_scripts
from penstock.store.availability import ANY_FAILURE, is_unavailable, outage
from penstock.store.connection import AsyncConnection
from penstock.store.record import DEFAULT_PRIORITY
from penstock.store.request_scripts import DeadlineEnd, ReaperAction
from penstock.streams.records import DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_AFTER_LOSS

logger = logging.getLogger(__name__)

#: Seconds between two ticks. With the lease it bounds the time until a lost worker is noticed.
TICK_S = 0.5
#: Maximum requests, and maximum shards, checked in one tick.
PAGE = 200
#: Milliseconds until a record that cannot be checked is checked again.
ODD_RECORD_WAIT_MS = 60_000
#: Seconds between two clean-ups.
CLEAN_UP_S = 60.0

#: The end of a request whose deadline passes while no worker holds it.
_DEADLINE_END, _DEADLINE_END_AFTER_LOSS = (
    DeadlineEnd(
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
        self._last_tick = 0.0

    async def run(self) -> None:
        """Reap until canceled; waits while Redis is unavailable."""
        # Checked on every tick: redis-py sends inside `asyncio.wait_for`, which in Python 3.11
        # swallows a cancellation that arrives just as the sending completes.
        task = asyncio.current_task()
        while task is None or not task.cancelling():
            await asyncio.sleep(TICK_S)
            try:
                if await self._holds_key():
                    await self._tick()
                outage.end(self)
            except (*ANY_FAILURE, OperationalError) as error:
                outage.note(self, error)
            except Exception:
                # A reaper that ends goes unnoticed until requests hang.
                logger.exception("reaper tick failed; continuing")

    async def _holds_key(self) -> bool:
        """Whether this worker holds the reaper's key; acquires the key if it is free."""
        key, life_ms = self._settings.keys.reaper, self._settings.lease_ms
        taken = await self._redis.set(key, self._worker, px=life_ms, nx=True, get=True)
        if taken not in (None, self._worker.encode()):
            return False
        await self._redis.pexpire(key, life_ms)
        return True

    async def _tick(self) -> None:
        lease_s = self._settings.lease_ms / 1000
        if self._last_tick and time.monotonic() - self._last_tick > TICK_S + lease_s / 2:
            # Redis was unavailable: leases expired that no worker could renew. Give the workers
            # time to renew them before their streams are woken elsewhere.
            await asyncio.sleep(lease_s / 2)
        self._last_tick = time.monotonic()
        seconds, microseconds = await self._redis.time()
        now_ms = seconds * 1000 + microseconds // 1000
        live, live_shards = self._settings.keys.live, self._settings.keys.live_shards
        due = await self._due(live, now_ms)
        if due:
            next_ids = await self._next_messages()
            for id in due:
                await self._check(live, id, now_ms, self._check_request(id, next_ids))
        for member in await self._due(live_shards, now_ms):
            await self._check(live_shards, member, now_ms, self._check_shard(member))
        self._clean_up_if_due()

    async def _check(
        self, live: str, member: str, now_ms: int, check: Coroutine[Any, Any, None]
    ) -> None:
        """Make one check. If the record itself is odd, check it later and continue with others."""
        try:
            await check
        except Exception as error:
            if is_unavailable(error) or isinstance(error, OperationalError):
                raise
            logger.exception("%s cannot be checked; it is checked again later", member)
            await self._redis.zadd(live, {member: now_ms + ODD_RECORD_WAIT_MS}, xx=True)

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

    async def _due(self, live: str, now_ms: int) -> list[str]:
        found = await self._redis.zrange(live, "-inf", now_ms, byscore=True, offset=0, num=PAGE)
        return [member.decode(errors="replace") for member in found]

    async def _check_shard(self, member: str) -> None:
        job, _, number = member.partition("/")
        shard = int(number)
        shared = self._settings.keys
        reaped = await shard_scripts.reap(
            shared.job(job),
            shared,
            shard,
            check_after_ms=int(self._settings.wakeup_retry_s * 1000),
        ).run_async(self._redis)
        if reaped.action is ReaperAction.WAKE:
            found = Shard.parse_or_placeholder(reaped.record, shard)
            logger.info("job %s shard %s: sending a wake-up for %s", job, shard, found.step)
            await asyncio.to_thread(self._send_shard, job, shard, found.model, found.step)

    async def _check_request(self, id: str, next_ids: list[str]) -> None:
        keys, shared = self._settings.keys.request(id), self._settings.keys
        model, stored = await self._redis.hmget(keys.meta, "model", "priority")
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
        ).run_async(self._redis)
        if reaped is ReaperAction.WAKE:
            logger.warning("request %s has no worker; sending a wake-up", id)
            name = (model or b"").decode(errors="replace")
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
