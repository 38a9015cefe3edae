"""The reaper over a real Redis: it wakes each request that needs it, and no other."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from kombu.exceptions import OperationalError

from config.settings import WorkerSettings
from penstock.batches.shard import Shard
from penstock.client import Client
from penstock.errors import RequestFailed
from penstock.ids import new_id
from penstock.keys import Keys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue import names
from penstock.queue.names import STREAMS_QUEUE, queue_keys
from penstock.store import job_index, request_scripts, shard_scripts
from penstock.store.connection import connect, connect_async
from penstock.store.request_scripts import Claimed
from penstock.streams.records import RequestOptions, RequestRecords
from penstock.testing import wait_until
from workers import reaper as reaper_module
from workers.reaper import Reaper

WAIT_MS = 10_000


class Setup:
    """Requests and wake-ups under a key prefix of their own, and the wake-ups that are sent."""

    def __init__(self, server: EmbeddedRedis) -> None:
        prefix = f"reaper-{new_id()[-8:]}"
        self.settings = WorkerSettings.load(
            redis_url=server.url, key_prefix=prefix, lease_ms=500, wakeup_retry_s=WAIT_MS / 1000
        )
        self.connection: Any = connect(self.settings)
        self.keys: Keys = self.settings.keys
        self.sent: list[tuple[str, str, int]] = []
        self.sent_shards: list[tuple[str, int, str, str]] = []
        self.failures: list[Exception] = []  #: raised by the next sends

    def send_shard(self, job: str, shard: int, model: str, step: str) -> None:
        self.sent_shards.append((job, shard, model, step))

    def submit(
        self, *, priority: int = 3, due: bool = True, deadline_s: float | None = None
    ) -> str:
        id = new_id()
        records = RequestRecords(self.connection, self.settings)
        options = RequestOptions(priority=priority, deadline_s=deadline_s)
        records.submit(id, "m", b"{}", options)
        if due:
            self.make_due(id)
        return id

    def make_due(self, id: str) -> None:
        self.connection.zadd(self.keys.live, {id: 0})

    def queue(self, id: str, *, priority: int = 3) -> None:
        """Put the request's message into the list that kombu uses."""
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
        """Run reapers until a condition holds."""
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

    def checked(self, id: str) -> bool:
        """Whether the reaper has checked the request: it is no longer due."""
        score = self.connection.zscore(self.keys.live, id)
        return score is None or score > 0


@pytest.fixture
def setup(penstock_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    monkeypatch.setattr(reaper_module, "TICK_S", 0.02)  # each test waits for one at least
    setup = Setup(penstock_redis)
    yield setup
    setup.connection.close()


def test_a_request_without_a_message_is_woken_with_its_model_and_priority(setup: Setup) -> None:
    id = setup.submit(priority=6)
    setup.reap(lambda: setup.sent)
    assert setup.sent == [(id, "m", 6)]


def test_a_request_in_the_queue_fails_once_its_deadline_has_passed(setup: Setup) -> None:
    id = setup.submit(deadline_s=0.001, due=False)
    setup.queue(id)
    records = RequestRecords(setup.connection, setup.settings)
    setup.reap(lambda: records.read(id).state.ended)
    assert records.read(id).state == "failed"
    assert records.read(id).json("error")["type"] == "deadline_exceeded"
    assert not setup.sent
    settings = setup.settings
    client = Client(settings.redis_url.get_secret_value(), key_prefix=settings.key_prefix)
    with client, pytest.raises(RequestFailed, match="deadline passed"):
        client.messages.attach(id, timeout=10).until_done()


@pytest.mark.parametrize("released", [False, True])
def test_a_deadline_after_the_loss_of_a_worker_does_not_say_that_no_tokens_were_spent(
    setup: Setup, released: bool
) -> None:
    id = setup.submit(deadline_s=0.001, due=False)
    setup.claim(id, lease_ms=1)
    setup.connection.delete(setup.keys.request(id).lease)
    if released:  # the next worker had to wait for the rate limit
        setup.connection.hset(
            setup.keys.request(id).meta, mapping={"worker_losses": 1, "state": "queued"}
        )
    setup.make_due(id)
    records = RequestRecords(setup.connection, setup.settings)
    setup.reap(lambda: records.read(id).state.ended)
    error = records.read(id).json("error")
    assert error["type"] == "deadline_exceeded"
    assert "tokens may have been spent" in error["message"]
    ((_, entry),) = setup.connection.xrevrange(setup.keys.request(id).log, count=1)
    assert orjson.loads(entry[b"d"])["data"]["error"] == error


def test_a_record_lives_until_its_deadline(setup: Setup) -> None:
    day_s = 86_400
    id = setup.submit(deadline_s=30 * day_s, due=False)
    keys = setup.keys.request(id)
    assert all(setup.connection.ttl(key) > 30 * day_s for key in (keys.meta, keys.request))


def test_a_request_whose_worker_died_is_woken(setup: Setup) -> None:
    id = setup.submit()
    setup.claim(id, lease_ms=1)
    setup.queue(id)  # an old message does not matter once a request was claimed
    setup.make_due(id)
    setup.reap(lambda: setup.sent)
    assert setup.sent == [(id, "m", 3)]


def test_a_request_whose_worker_lives_is_checked_again_when_its_lease_ends(setup: Setup) -> None:
    id = setup.submit()
    setup.claim(id, lease_ms=50_000)
    setup.make_due(id)
    setup.reap(lambda: setup.checked(id))
    seconds, _ = setup.connection.time()
    assert 40 < setup.connection.zscore(setup.keys.live, id) / 1000 - seconds <= 51
    assert setup.sent == []


@pytest.mark.parametrize("priority", [0, 2, 3, 5, 6, 9])
def test_a_request_whose_message_is_queued_is_not_woken(setup: Setup, priority: int) -> None:
    id = setup.submit(priority=priority)
    setup.queue(id, priority=priority)
    setup.reap(lambda: setup.checked(id))
    assert setup.sent == []


def test_a_request_queued_after_others_is_not_woken(setup: Setup) -> None:
    before, id = setup.submit(due=False), setup.submit()
    for each in (before, id):
        setup.queue(each)
    setup.reap(lambda: setup.checked(id))
    assert setup.sent == []


def test_a_lost_message_that_was_ahead_of_others_is_sent_again(setup: Setup) -> None:
    id, later = setup.submit(), setup.submit(due=False)
    setup.queue(later)
    setup.reap(lambda: setup.sent)
    assert setup.sent == [(id, "m", 3)]


def test_a_lost_message_is_sent_again_even_if_less_urgent_ones_are_queued(setup: Setup) -> None:
    relaxed, urgent = setup.submit(priority=9, due=False), setup.submit(priority=0)
    setup.queue(relaxed, priority=9)
    setup.reap(lambda: setup.checked(urgent))
    assert setup.sent == [(urgent, "m", 0)]


def test_the_wait_doubles_with_each_further_wake_up(setup: Setup) -> None:
    id = setup.submit()
    waits = []
    for _ in range(9):
        count = len(setup.sent)
        setup.make_due(id)
        setup.reap(lambda count=count: len(setup.sent) > count)  # type: ignore[misc]
        seconds, _ = setup.connection.time()
        waits.append(round(setup.connection.zscore(setup.keys.live, id) / 1000 - seconds, -1))
    assert waits == [10, 20, 40, 80, 160, 320, 640, 640, 640]


@pytest.mark.parametrize("state", ["done", "failed", "canceled", None])
def test_an_ended_or_expired_request_is_removed_from_the_live_set(
    setup: Setup, state: str | None
) -> None:
    id = setup.submit()
    keys = setup.keys.request(id)
    if state is None:
        setup.connection.delete(keys.meta)
    else:
        setup.connection.hset(keys.meta, "state", state)
    setup.reap(lambda: setup.connection.zscore(setup.keys.live, id) is None)
    assert setup.sent == []


def test_one_of_several_reapers_does_the_work(setup: Setup) -> None:
    requests = {setup.submit() for _ in range(20)}
    setup.reap(lambda: len(setup.sent) >= 20, names=("a", "b", "c"))
    assert {id for id, _, _ in setup.sent} == requests
    assert len(setup.sent) == 20


def test_another_reaper_takes_over_when_one_has_died(setup: Setup) -> None:
    setup.reap(lambda: setup.connection.get(setup.keys.reaper) == b"dies", names=("dies",))
    id = setup.submit()
    setup.reap(lambda: setup.sent, names=("lives",))
    assert setup.sent == [(id, "m", 3)]


@pytest.mark.parametrize(
    "failure",
    [OperationalError("the broker is unavailable"), OSError("reset"), RuntimeError("a bug")],
    ids=lambda failure: type(failure).__name__,
)
def test_a_wake_up_that_cannot_be_sent_does_not_end_the_reaper(
    setup: Setup, failure: Exception
) -> None:
    setup.failures.append(failure)
    ids = [setup.submit(), setup.submit()]
    setup.reap(lambda: setup.sent)
    assert setup.sent[0][0] in ids


def test_a_malformed_message_does_not_stop_the_reaper(setup: Setup) -> None:
    [_, name, *_] = queue_keys(STREAMS_QUEUE, setup.settings.key_prefix)
    setup.connection.rpush(name, b"[]")
    setup.connection.expire(name, 60)
    id = setup.submit()
    setup.reap(lambda: setup.sent)
    assert setup.sent == [(id, "m", 3)]


def test_a_record_of_another_type_is_woken_to_fail_and_delays_no_other(
    setup: Setup,
) -> None:
    odd = setup.submit()
    key = setup.keys.request(odd).meta
    setup.connection.set(key, "not a hash", ex=60)
    setup.connection.zadd(setup.keys.live_shards, {"no-shard": 0})
    good, job = setup.submit(), shard_of(setup)
    setup.reap(lambda: setup.sent and setup.sent_shards)
    assert setup.sent == [(odd, "", 0), (good, "m", 3)]
    assert setup.sent_shards == [(job, 0, "m", names.BATCH_CREATE)]
    assert setup.connection.zscore(setup.keys.live_shards, "no-shard") is None


NO_IDS = ["", "x", "a}b", "{x}", "\u00b2", b"\xff\xfe", "x" * 1_000_000, "0" * 36]
NO_SHARDS = ["x", "a/b/c", "job/-1", "job/1e9", "", b"\xff/0", "/", *NO_IDS]


def test_members_that_name_no_record_are_removed_logged_once_and_delay_no_other(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    keys, connection = setup.keys, setup.connection
    for number in range(250):  # more than a page
        connection.zadd(keys.live, {f"{number}}}": "-inf"})
    odd_numbers = [f"{new_id()}/{number}" for number in ("00", "-1", "1e9", "0/0", "9" * 30)]
    connection.zadd(keys.live, dict.fromkeys(NO_IDS, -1))
    connection.zadd(keys.live_shards, dict.fromkeys([*NO_SHARDS, *odd_numbers], "-inf"))
    good, job = setup.submit(), shard_of(setup)
    setup.reap(lambda: setup.sent and setup.sent_shards)
    assert setup.sent == [(good, "m", 3)]
    assert setup.sent_shards == [(job, 0, "m", names.BATCH_CREATE)]
    assert connection.zrange(keys.live, 0, -1) == [good.encode()]
    assert connection.zrange(keys.live_shards, 0, -1) == [f"{job}/0".encode()]
    removals = [line for line in caplog.messages if "name no record" in line]
    assert len(removals) == 2
    assert all(len(line) < 300 for line in removals)


def test_a_time_that_no_script_writes_hides_no_request(setup: Setup) -> None:
    id = setup.submit()
    setup.connection.zadd(setup.keys.live, {id: "+inf"})
    setup.reap(lambda: setup.sent)
    assert setup.sent == [(id, "m", 3)]


@pytest.mark.parametrize(
    "index", ["live", "live_shards", "jobs", "spools", "active_batches", "run"]
)
def test_a_shared_key_of_another_type_is_removed_and_the_reaper_continues(
    setup: Setup, index: str
) -> None:
    key = getattr(setup.keys, index)
    setup.connection.delete(key)
    setup.connection.set(key, "x", ex=100)
    setup.connection.set(setup.keys.reaper, "never expires")
    setup.reap(lambda: setup.connection.type(key) != b"string")
    id = setup.submit()
    setup.reap(lambda: setup.sent)
    assert setup.sent == [(id, "m", 3)]


def test_jobs_without_a_record_are_pruned_part_by_part(setup: Setup) -> None:
    job = shard_of(setup)
    members: dict[str | bytes, int] = {new_id(): at for at in range(50)}
    members |= {job: 9, "no id": 1, b"\xff": 2}
    setup.connection.zadd(setup.keys.jobs, members)
    assert job_index.prune(setup.connection, setup.keys, 0) == 1
    assert setup.connection.zrange(setup.keys.jobs, 0, -1) == [job.encode()]
    assert job_index.prune(setup.connection, setup.keys, 1) == 0


@pytest.mark.parametrize("stored", ["abc", "-1", "99", "", "\u00b2"])
def test_a_request_with_an_odd_priority_is_woken_with_the_default(
    setup: Setup, stored: str
) -> None:
    id = setup.submit()
    setup.connection.hset(setup.keys.request(id).meta, "priority", stored)
    setup.reap(lambda: setup.sent)
    assert setup.sent == [(id, "m", 3 if stored else 0)]


def test_a_reaper_survives_a_restart_of_redis() -> None:
    with EmbeddedRedis() as first:
        setup = Setup(first)
        first.kill()
        started: list[EmbeddedRedis] = []

        def restart() -> bool:
            # Runs while the reaper is running.
            started.append(EmbeddedRedis(port=first.port).start())
            setup.submit()
            wait_until(lambda: setup.sent)
            return True

        try:
            setup.reap(restart)
        finally:
            for server in started:
                server.stop()
            setup.connection.close()


class UncancellableDriver:
    """A driver that swallows the cancellation of a command, as redis-py can."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def evalsha(self, *_: object, **__: object) -> list[int]:
        if not self.asked.is_set():
            self.asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return [0]


def test_a_reaper_ends_even_if_the_driver_swallows_its_cancellation(setup: Setup) -> None:
    async def cancel() -> bool:
        driver: Any = UncancellableDriver()
        task = asyncio.ensure_future(
            Reaper(setup.settings, driver, "w", setup.send, setup.send_shard).run()
        )
        await driver.asked.wait()
        task.cancel()
        ended, _ = await asyncio.wait({task}, timeout=20)
        return task in ended

    assert asyncio.run(cancel())


def shard_of(setup: Setup, **changes: Any) -> str:
    """A job of one shard that is due."""
    id = new_id()
    keys = setup.keys.job(id)
    shard = Shard(number=0, model="m").evolve(**changes)
    setup.connection.hset(keys.meta, mapping={"state": "running"})
    setup.connection.hset(keys.shards, "0", shard.encode())
    for key in (keys.meta, keys.shards):
        setup.connection.expire(key, 100)
    setup.connection.zadd(setup.keys.live_shards, {f"{id}/0": 0})
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
def test_a_shard_whose_message_was_lost_continues_from_its_record(
    setup: Setup, state: str, step: str
) -> None:
    id = shard_of(setup, state=state)
    setup.reap(lambda: setup.sent_shards)
    assert setup.sent_shards == [(id, 0, "m", step)]


def test_a_shard_whose_worker_died_is_woken_after_its_lease(setup: Setup) -> None:
    id = shard_of(setup)
    keys, shared = setup.keys.job(id), setup.keys
    shard_scripts.claim(keys, shared, 0, worker="dies", lease_ms=700, early_ms=0).run(
        setup.connection
    )
    setup.connection.zadd(setup.keys.live_shards, {f"{id}/0": 0})
    setup.reap(lambda: setup.sent_shards)
    assert setup.sent_shards == [(id, 0, "m", names.BATCH_CREATE)]
    assert not setup.connection.exists(keys.shard_lease(0))


def test_a_parked_shard_and_one_that_is_not_due_are_not_woken(setup: Setup) -> None:
    parked, waits, due = shard_of(setup), shard_of(setup), shard_of(setup)
    setup.connection.zrem(setup.keys.live_shards, f"{parked}/0")
    seconds, _ = setup.connection.time()
    setup.connection.zadd(setup.keys.live_shards, {f"{waits}/0": (seconds + 60) * 1000})
    setup.reap(lambda: setup.sent_shards)
    assert [job for job, *_ in setup.sent_shards] == [due]


@pytest.mark.parametrize("state", ["done", "failed", "canceled", None])
def test_the_shards_of_an_ended_or_expired_job_are_removed_from_the_live_set(
    setup: Setup, state: str | None
) -> None:
    id = shard_of(setup)
    keys = setup.keys.job(id)
    if state is None:
        setup.connection.delete(keys.meta)
    else:
        setup.connection.hset(keys.meta, "state", state)
    setup.reap(lambda: setup.connection.zscore(setup.keys.live_shards, f"{id}/0") is None)
    assert setup.sent_shards == []
