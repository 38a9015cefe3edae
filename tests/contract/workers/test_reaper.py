"""The reaper over a real Redis: nobody is forgotten, nobody is woken for nothing."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from kombu.exceptions import OperationalError

from config.settings import WorkerSettings
from penstock.batches.shard import Shard
from penstock.ids import new_id
from penstock.keys import Keys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue import names
from penstock.queue.names import STREAMS_QUEUE, queue_keys
from penstock.store import request_scripts, shard_scripts
from penstock.store.connection import connect, connect_async
from penstock.store.request_scripts import Claimed
from penstock.streams.records import RequestOptions, RequestRecords
from penstock.testing import wait_until
from workers.reaper import Reaper

WAIT_MS = 10_000


class Desk:
    """Requests and wake-ups under a prefix of their own, and what the reaper makes of them."""

    def __init__(self, server: EmbeddedRedis) -> None:
        prefix = f"reaper-{new_id()[-8:]}"
        self.settings = WorkerSettings.load(
            redis_url=server.url, key_prefix=prefix, lease_ms=500, wakeup_retry_s=WAIT_MS / 1000
        )
        self.connection = connect(self.settings)
        self.keys: Keys = self.settings.keys
        self.sent: list[tuple[str, str, int]] = []
        self.sent_shards: list[tuple[str, int, str, str]] = []
        self.failures: list[Exception] = []  #: of the next sends

    def send_shard(self, job: str, shard: int, model: str, step: str) -> None:
        self.sent_shards.append((job, shard, model, step))

    def submit(self, *, priority: int = 3, due: bool = True) -> str:
        id = new_id()
        records = RequestRecords(self.connection, self.settings)
        records.submit(id, "m", b"{}", RequestOptions(priority=priority))
        if due:
            self.make_due(id)
        return id

    def make_due(self, id: str) -> None:
        self.connection.zadd(self.keys.live, {id: 0})

    def queue(self, id: str, *, priority: int = 3) -> None:
        """Put its message where kombu puts it."""
        step = (0, 3, 6, 9).index(max(s for s in (0, 3, 6, 9) if s <= priority))
        name = queue_keys(STREAMS_QUEUE, self.settings.key_prefix)[step]
        self.connection.lpush(name, orjson.dumps({"headers": {"id": id}}))
        self.connection.expire(name, 60)

    def claim(self, id: str, *, lease_ms: int = 60_000) -> None:
        keys = self.keys.request(id)
        claim = request_scripts.claim(keys, self.keys, worker="w", lease_ms=lease_ms)
        assert isinstance(claim.run(self.connection), Claimed)

    def send(self, id: str, model: str, priority: int) -> None:
        if self.failures:
            raise self.failures.pop()
        self.sent.append((id, model, priority))

    def reap(self, until: Callable[[], object], *, names: tuple[str, ...] = ("w",)) -> None:
        """Let reapers work until something has happened."""
        asyncio.run(self._reap(until, names))

    async def _reap(self, until: Callable[[], object], names: tuple[str, ...]) -> None:
        connection = connect_async(self.settings)
        reapers = [
            Reaper(self.settings, connection, name, self.send, self.send_shard) for name in names
        ]
        tasks = [asyncio.ensure_future(reaper.run()) for reaper in reapers]
        await asyncio.to_thread(wait_until, until)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await connection.aclose()

    def looked_at(self, id: str) -> bool:
        """Whether the reaper has seen to it: nothing is due any more."""
        score = self.connection.zscore(self.keys.live, id)
        return score is None or score > 0


@pytest.fixture
def desk(penstock_redis: EmbeddedRedis) -> Iterator[Desk]:
    desk = Desk(penstock_redis)
    yield desk
    desk.connection.close()


def test_a_request_without_a_message_is_woken_with_its_model_and_priority(desk: Desk) -> None:
    id = desk.submit(priority=6)
    desk.reap(lambda: desk.sent)
    assert desk.sent == [(id, "m", 6)]


def test_a_request_whose_worker_died_is_woken(desk: Desk) -> None:
    id = desk.submit()
    desk.claim(id, lease_ms=1)
    desk.queue(id)  # an old message says nothing about a request that was claimed
    desk.make_due(id)
    desk.reap(lambda: desk.sent)
    assert desk.sent == [(id, "m", 3)]


def test_a_request_whose_worker_lives_is_looked_at_when_its_lease_ends(desk: Desk) -> None:
    id = desk.submit()
    desk.claim(id, lease_ms=50_000)
    desk.make_due(id)
    desk.reap(lambda: desk.looked_at(id))
    seconds, _ = desk.connection.time()
    assert 40 < desk.connection.zscore(desk.keys.live, id) / 1000 - seconds <= 51
    assert desk.sent == []


@pytest.mark.parametrize("priority", [0, 2, 3, 5, 6, 9])
def test_a_request_that_waits_in_the_queue_is_left_alone(desk: Desk, priority: int) -> None:
    id = desk.submit(priority=priority)
    desk.queue(id, priority=priority)
    desk.reap(lambda: desk.looked_at(id))
    assert desk.sent == []


def test_a_request_behind_others_in_the_queue_is_left_alone(desk: Desk) -> None:
    before, id = desk.submit(due=False), desk.submit()
    for each in (before, id):
        desk.queue(each)
    desk.reap(lambda: desk.looked_at(id))
    assert desk.sent == []


def test_a_message_that_was_lost_from_before_the_others_is_sent_again(desk: Desk) -> None:
    id, behind = desk.submit(), desk.submit(due=False)
    desk.queue(behind)
    desk.reap(lambda: desk.sent)
    assert desk.sent == [(id, "m", 3)]


def test_a_lost_message_is_sent_again_though_less_urgent_ones_wait(desk: Desk) -> None:
    patient, urgent = desk.submit(priority=9, due=False), desk.submit(priority=0)
    desk.queue(patient, priority=9)
    desk.reap(lambda: desk.looked_at(urgent))
    assert desk.sent == [(urgent, "m", 0)]


def test_each_further_wake_up_comes_later(desk: Desk) -> None:
    id = desk.submit()
    waits = []
    for _ in range(9):
        count = len(desk.sent)
        desk.make_due(id)
        desk.reap(lambda count=count: len(desk.sent) > count)  # type: ignore[misc]
        seconds, _ = desk.connection.time()
        waits.append(round(desk.connection.zscore(desk.keys.live, id) / 1000 - seconds, -1))
    assert waits == [10, 20, 40, 80, 160, 320, 640, 640, 640]


@pytest.mark.parametrize("state", ["done", "failed", "canceled", None])
def test_what_has_ended_or_expired_is_forgotten(desk: Desk, state: str | None) -> None:
    id = desk.submit()
    keys = desk.keys.request(id)
    if state is None:
        desk.connection.delete(keys.meta)
    else:
        desk.connection.hset(keys.meta, "state", state)
    desk.reap(lambda: desk.connection.zscore(desk.keys.live, id) is None)
    assert desk.sent == []


def test_one_of_several_reapers_does_the_work(desk: Desk) -> None:
    requests = {desk.submit() for _ in range(20)}
    desk.reap(lambda: len(desk.sent) >= 20, names=("a", "b", "c"))
    assert {id for id, _, _ in desk.sent} == requests
    assert len(desk.sent) == 20


def test_another_reaper_goes_on_when_one_has_died(desk: Desk) -> None:
    desk.reap(lambda: desk.connection.get(desk.keys.reaper) == b"dies", names=("dies",))
    id = desk.submit()
    desk.reap(lambda: desk.sent, names=("lives",))
    assert desk.sent == [(id, "m", 3)]


@pytest.mark.parametrize(
    "failure",
    [OperationalError("the broker is away"), OSError("reset"), RuntimeError("a bug")],
    ids=lambda failure: type(failure).__name__,
)
def test_a_wake_up_that_cannot_be_sent_does_not_end_the_reaper(
    desk: Desk, failure: Exception
) -> None:
    desk.failures.append(failure)
    ids = [desk.submit(), desk.submit()]
    desk.reap(lambda: desk.sent)
    assert desk.sent[0][0] in ids


def test_a_message_that_nobody_understands_stands_in_nobodys_way(desk: Desk) -> None:
    [_, name, *_] = queue_keys(STREAMS_QUEUE, desk.settings.key_prefix)
    desk.connection.rpush(name, b"[]")
    desk.connection.expire(name, 60)
    id = desk.submit()
    desk.reap(lambda: desk.sent)
    assert desk.sent == [(id, "m", 3)]


def test_a_reaper_outlives_a_restart_of_redis() -> None:
    with EmbeddedRedis() as first:
        desk = Desk(first)
        first.kill()
        started: list[EmbeddedRedis] = []

        def restart() -> bool:
            # Runs while the reaper does.
            started.append(EmbeddedRedis(port=first.port).start())
            desk.submit()
            wait_until(lambda: desk.sent)
            return True

        try:
            desk.reap(restart)
        finally:
            for server in started:
                server.stop()
            desk.connection.close()


class Deaf:
    """A driver that swallows the cancellation of a command, as redis-py does in one moment."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def set(self, *_: object, **__: object) -> bytes:
        if not self.asked.is_set():
            self.asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return b"another"


def test_a_reaper_ends_though_the_driver_swallows_its_cancellation(desk: Desk) -> None:
    async def cancel() -> bool:
        driver = Deaf()
        task = asyncio.ensure_future(
            Reaper(desk.settings, driver, "w", desk.send, desk.send_shard).run()
        )
        await driver.asked.wait()
        task.cancel()
        ended, _ = await asyncio.wait({task}, timeout=20)
        return task in ended

    assert asyncio.run(cancel())


def shard_of(desk: Desk, **changes: Any) -> str:
    """A job of one shard that is due."""
    id = new_id()
    keys = desk.keys.job(id)
    shard = Shard(number=0, model="m").evolve(**changes)
    desk.connection.hset(keys.meta, mapping={"state": "running"})
    desk.connection.hset(keys.shards, "0", shard.encode())
    for key in (keys.meta, keys.shards):
        desk.connection.expire(key, 100)
    desk.connection.zadd(desk.keys.live_shards, {f"{id}/0": 0})
    return id


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("planned", names.BATCH_CREATE),
        ("sending", names.BATCH_CREATE),
        ("in_progress", names.BATCH_POLL),
        ("ended", names.BATCH_COLLECT),
        ("collected", names.BATCH_FINISH),
    ],
)
def test_a_shard_whose_message_was_lost_goes_on_from_its_record(
    desk: Desk, state: str, step: str
) -> None:
    id = shard_of(desk, state=state)
    desk.reap(lambda: desk.sent_shards)
    assert desk.sent_shards == [(id, 0, "m", step)]


def test_a_shard_whose_worker_died_is_woken_once_its_lease_is_over(desk: Desk) -> None:
    id = shard_of(desk)
    keys, shared = desk.keys.job(id), desk.keys
    shard_scripts.claim(keys, shared, 0, worker="dies", lease_ms=700, early_ms=0).run(
        desk.connection
    )
    desk.connection.zadd(desk.keys.live_shards, {f"{id}/0": 0})
    desk.reap(lambda: desk.sent_shards)
    assert desk.sent_shards == [(id, 0, "m", names.BATCH_CREATE)]
    assert not desk.connection.exists(keys.shard_lease(0))


def test_a_parked_shard_and_one_that_is_not_due_are_left_alone(desk: Desk) -> None:
    parked, waits, due = shard_of(desk), shard_of(desk), shard_of(desk)
    desk.connection.zrem(desk.keys.live_shards, f"{parked}/0")
    seconds, _ = desk.connection.time()
    desk.connection.zadd(desk.keys.live_shards, {f"{waits}/0": (seconds + 60) * 1000})
    desk.reap(lambda: desk.sent_shards)
    assert [job for job, *_ in desk.sent_shards] == [due]


@pytest.mark.parametrize("state", ["done", "failed", "canceled", None])
def test_the_shards_of_a_job_that_has_ended_or_expired_are_forgotten(
    desk: Desk, state: str | None
) -> None:
    id = shard_of(desk)
    keys = desk.keys.job(id)
    if state is None:
        desk.connection.delete(keys.meta)
    else:
        desk.connection.hset(keys.meta, "state", state)
    desk.reap(lambda: desk.connection.zscore(desk.keys.live_shards, f"{id}/0") is None)
    assert desk.sent_shards == []
