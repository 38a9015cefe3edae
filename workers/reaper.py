"""The reaper: sees that no request and no shard of a batch job is forgotten.

A worker that dies lets its leases run out; a message can be lost on its way. Each request and each
shard that has not ended stands in a sorted set with the time at which somebody should look at it.
Every worker can do that, and one does: whoever holds the reaper's key.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import orjson
from kombu.exceptions import OperationalError

from config.settings import WorkerSettings
from penstock.batches.shard import Shard
from penstock.queue.names import STREAMS_QUEUE, queue_keys
from penstock.store import request_scripts, shard_scripts
from penstock.store.availability import ANY_FAILURE
from penstock.store.connection import Connection
from penstock.store.request_scripts import Reaped

logger = logging.getLogger(__name__)

#: Seconds between two looks; with the lease it bounds how long a lost worker goes unnoticed.
TICK_S = 0.5
#: Requests to look at in one tick.
PAGE = 200

#: Seconds between two rounds of tidying up.
TIDY_S = 60.0

#: Sends the wake-up of a request: id, model, priority.
SendRequest = Callable[[str, str, int], None]
#: Sends the wake-up of a shard: job, shard number, model, step.
SendShard = Callable[[str, int, str, str], None]


class Reaper:
    """Finds requests and shards that need a new wake-up, and has it sent."""

    def __init__(
        self,
        settings: WorkerSettings,
        connection: Connection,
        worker: str,
        send_request: SendRequest,
        send_shard: SendShard,
        tidy: Callable[[], None] | None = None,
    ) -> None:
        """``tidy`` is called once a minute, in a thread: it may take its time."""
        self._settings = settings
        self._redis = connection
        self._worker = worker
        self._send_request = send_request
        self._send_shard = send_shard
        self._tidy = tidy
        self._tidied = 0.0
        self._tidying: asyncio.Task[None] | None = None
        self._last_tick = 0.0

    async def run(self) -> None:
        """Reap until canceled; a Redis that is away is waited for."""
        # Asked each time: redis-py sends inside `asyncio.wait_for`, which in Python 3.11 swallows
        # a cancellation that comes in the moment at which the sending is done.
        task = asyncio.current_task()
        while task is None or not task.cancelling():
            await asyncio.sleep(TICK_S)
            try:
                if await self._is_mine():
                    await self._tick()
            except (*ANY_FAILURE, OperationalError) as error:
                logger.warning("the reaper cannot reach Redis: %s", error)
            except Exception:
                # Nobody would miss it before requests hang.
                logger.exception("the reaper failed; it goes on")

    async def _is_mine(self) -> bool:
        """Whether this worker does the reaping; takes it over when nobody does."""
        key, life_ms = self._settings.keys.reaper, self._settings.lease_ms
        taken = await self._redis.set(key, self._worker, px=life_ms, nx=True, get=True)
        if taken not in (None, self._worker.encode()):
            return False
        await self._redis.pexpire(key, life_ms)
        return True

    async def _tick(self) -> None:
        lease_s = self._settings.lease_ms / 1000
        if self._last_tick and time.monotonic() - self._last_tick > TICK_S + lease_s / 2:
            # Redis was away or stood still: leases ran out that nobody could renew. Their
            # workers get the time to do it before anyone takes their streams from them.
            await asyncio.sleep(lease_s / 2)
        self._last_tick = time.monotonic()
        seconds, microseconds = await self._redis.time()
        now_ms = seconds * 1000 + microseconds // 1000
        due = await self._due(self._settings.keys.live, now_ms)
        if due:
            next_ids = await self._next_messages()
            for id in due:
                await self._look_at(id, next_ids)
        for member in await self._due(self._settings.keys.live_shards, now_ms):
            job, _, shard = member.partition("/")
            await self._look_at_shard(job, int(shard))
        self._tidy_up()

    def _tidy_up(self) -> None:
        if self._tidy is None or (self._tidied and time.monotonic() - self._tidied < TIDY_S):
            return
        if self._tidying is None or self._tidying.done():
            self._tidied = time.monotonic()
            self._tidying = asyncio.create_task(self._tidy_now(self._tidy))

    async def _tidy_now(self, tidy: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(tidy)
        except Exception:
            logger.exception("tidying up failed; it is tried again")

    async def _due(self, live: str, now_ms: int) -> list[str]:
        found = await self._redis.zrange(live, "-inf", now_ms, byscore=True, offset=0, num=PAGE)
        return [member.decode() for member in found]

    async def _look_at_shard(self, job: str, shard: int) -> None:
        shared = self._settings.keys
        reaped = await shard_scripts.reap(
            shared.job(job),
            shared,
            shard,
            check_after_ms=int(self._settings.wakeup_retry_s * 1000),
        ).run_async(self._redis)
        if reaped.verdict is Reaped.WAKE:
            found = Shard.parse(reaped.record)
            logger.info("job %s shard %s: sending a wake-up for %s", job, shard, found.step)
            await asyncio.to_thread(self._send_shard, job, shard, found.model, found.step)

    async def _look_at(self, id: str, next_ids: list[str]) -> None:
        keys, shared = self._settings.keys.request(id), self._settings.keys
        model, priority = await self._redis.hmget(keys.meta, "model", "priority")
        # Messages are taken in the order of their ids, by and large: one that is older than the
        # next in its list has been taken out of it, or was never there.
        next_id = next_ids[int(priority or 0) // 3]
        may_hold = bool(next_id) and next_id <= id
        reaped = await request_scripts.reap(
            keys,
            shared,
            check_after_ms=int(self._settings.wakeup_retry_s * 1000),
            may_be_queued=may_hold,
        ).run_async(self._redis)
        if reaped is Reaped.WAKE:
            logger.warning("request %s has no worker; waking one", id)
            await asyncio.to_thread(
                self._send_request, id, (model or b"").decode(), int(priority or 0)
            )

    async def _next_messages(self) -> list[str]:
        """The id of the message that will be taken next, for each step of priority."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in queue_keys(STREAMS_QUEUE, self._settings.key_prefix):
                pipe.lindex(name, -1)
            heads: list[Any] = await pipe.execute()
        return [_id_of(head) for head in heads]


def _id_of(message: bytes | None) -> str:
    """The request that a message wakes; empty if there is none, or none of ours."""
    try:
        return str(orjson.loads(message or b"")["headers"]["id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
