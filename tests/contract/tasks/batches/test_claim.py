"""`ClaimedShard`: a shard claimed for one step, its lease renewed, its writes fenced."""

import json
import threading
from collections.abc import Iterator

import pytest
import redis

from penstock import events
from penstock.batches.jobs import JobRecords
from penstock.batches.notices import Alert
from penstock.batches.shard import Counts, Shard
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.states import State
from penstock.testing import wait_until
from tasks.batches.claim import Fenced, JobUnreadable, NotClaimed
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.limits.active_batches import release_and_wake
from tests.contract.jobs import Desk, params
from tests.contract.penstock.store.calls import clock


@pytest.fixture
def desk(penstock_redis: EmbeddedRedis) -> Iterator[Desk]:
    desk = Desk(penstock_redis)
    yield desk
    desk.close()


@pytest.fixture
def id(desk: Desk) -> str:
    return desk.submit([params()])


def test_a_claim_ends_with_its_block(desk: Desk, id: str) -> None:
    with desk.claimed(id, worker="w1") as work:
        lease = desk.connection.get(desk.keys(id).shard_lease(0))
        assert lease == f"w1:{work.lease.epoch}".encode()
        with pytest.raises(NotClaimed, match="leased"), desk.claimed(id, worker="w2"):
            pytest.fail("two workers claimed one shard")
        work.write(work.shard.evolve(state="sending"))
        assert work.release() == 0
    with desk.claimed(id, worker="w2") as work:
        assert work.shard.state == "sending"
        assert work.job.shards() == [work.shard]


def test_a_shard_whose_step_failed_is_due_again_later(desk: Desk, id: str) -> None:
    with pytest.raises(ZeroDivisionError), desk.claimed(id):
        1 / 0  # noqa: B018
    assert not desk.connection.exists(desk.keys(id).shard_lease(0))
    with pytest.raises(NotClaimed, match="early"), desk.claimed(id):
        pytest.fail("not due")


def test_a_fenced_worker_neither_writes_nor_releases(desk: Desk, id: str) -> None:
    with desk.claimed(id, worker="w1") as work:
        desk.take_over(id)
        lease = desk.connection.get(desk.keys(id).shard_lease(0))
        for call in (work.write, work.release, work.lease.renew):
            with pytest.raises(Fenced):
                call()
        with pytest.raises(Fenced):
            work.write(work.shard.evolve(sent_ms=1), durable=True)
    assert desk.connection.get(desk.keys(id).shard_lease(0)) == lease
    assert desk.shard(id).sent_ms == 0


def test_a_lease_is_renewed_for_as_long_as_the_step_runs(penstock_redis: EmbeddedRedis) -> None:
    desk = Desk(penstock_redis, lease_ms=600)
    id = desk.submit([params()])
    key = desk.keys(id).shard_lease(0)
    with desk.claimed(id):
        start = clock(desk.connection)
        wait_until(lambda: clock(desk.connection) > start + 1_500)
        assert desk.connection.exists(key)
    desk.close()


def test_a_late_renewal_does_not_restore_a_released_lease(desk: Desk, id: str) -> None:
    with desk.claimed(id) as work:
        work.release()
        with pytest.raises(Fenced):
            work.lease.renew()
    assert not desk.connection.exists(desk.keys(id).shard_lease(0))


def test_a_step_that_did_not_see_a_cancel_runs_again_at_once(desk: Desk, id: str) -> None:
    with desk.claimed(id) as work:
        assert work.cancel == ""
        JobRecords(desk.connection, desk.settings).cancel(id, "alice")
        work.lease.renew()  # as the renewing thread does
        work.write(work.shard)
        assert work.release(countdown_s=300) == 0
    with desk.claimed(id) as work:
        # The claim reported the cancel, so the step is not run again and again.
        assert work.release(countdown_s=300) == 300


def test_a_step_that_saw_the_cancel_waits_for_its_countdown(desk: Desk, id: str) -> None:
    with desk.claimed(id) as work:
        JobRecords(desk.connection, desk.settings).cancel(id, "alice")
        work.write()
        assert work.cancel == "alice"
        assert work.release(countdown_s=300) == 300


def test_a_pause_reaches_readers_and_the_next_step(desk: Desk, id: str) -> None:
    with desk.claimed(id) as work:
        assert work.paused is None
        assert work.park(pause={"type": "billing_error", "message": "no"}) is None
    with desk.claimed(id) as work:
        assert work.paused is not None
        assert (work.paused["type"], work.paused["shard"]) == ("billing_error", 0)
    event = events.decode(desk.connection.xrange(desk.keys(id).log)[-1][1][b"d"])
    assert (event.type, event.data["reason"]["message"]) == (events.PAUSED, "no")


def test_a_retry_shard_is_written_together_with_its_parent(desk: Desk, id: str) -> None:
    with desk.claimed(id) as work:
        child = Shard(number=1, round=1)
        work.advance("collect", work.shard.evolve(state="collected"), also=[child])
    assert desk.shard(id, 1) == child
    assert desk.shard(id).state == "collected"
    event = events.decode(desk.connection.xrange(desk.keys(id).log)[-1][1][b"d"])
    assert (event.type, event.data["step"]) == (events.PROGRESS, "collect")


def test_an_alert_of_the_same_kind_is_raised_once(desk: Desk, id: str) -> None:
    with desk.claimed(id) as work:
        for _ in range(3):
            work.alert(Alert.DUPLICATE_BATCH, "check it")
    kinds = [
        events.decode(f[b"d"]).type for _, f in desk.connection.xrange(desk.keys(id).log, "0-2")
    ]
    assert kinds == [events.ALERT]


def test_a_durable_write_is_on_disk_and_succeeds_without_an_append_only_file(
    penstock_redis: EmbeddedRedis, desk: Desk, id: str
) -> None:
    with desk.claimed(id) as work:
        work.write(work.shard.evolve(sent_ms=1), durable=True)
        assert desk.shard(id).sent_ms == 1
        desk.connection.config_set("appendonly", "no")
        try:
            work.write(work.shard.evolve(sent_ms=2), durable=True)
        finally:
            desk.connection.config_set("appendonly", "yes")
            wait_until(lambda: not desk.connection.info()["aof_rewrite_in_progress"])
    assert desk.shard(id).sent_ms == 2


def test_a_durable_write_survives_a_killed_redis() -> None:
    with EmbeddedRedis() as first:
        desk = Desk(first)
        id = desk.submit([params()])
        with desk.claimed(id) as work:
            work.write(work.shard.evolve(sent_ms=5), durable=True)
            epoch = work.lease.epoch
            first.kill()
            with EmbeddedRedis(port=first.port, folder=first.folder):
                assert desk.shard(id).sent_ms == 5
                claim = desk.connection.hget(desk.keys(id).claims, "0")
                assert claim == f"{epoch} w".encode()
                work.lease.renew()
        desk.close()


def test_a_durable_write_that_does_not_reach_the_disk_in_time_times_out(
    desk: Desk, id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk.claimed(id) as work:
        monkeypatch.setattr("tasks.batches.claimed_shard._ON_DISK_MS", 1)
        desk.connection.config_set("appendfsync", "no")
        try:
            with pytest.raises(redis.TimeoutError):
                work.write(work.shard, durable=True)
        finally:
            desk.connection.config_set("appendfsync", "everysec")


def test_events_of_shards_written_at_the_same_time_are_numbered_without_gaps(
    penstock_redis: EmbeddedRedis, desk: Desk
) -> None:
    id = desk.submit(*([params()] for _ in range(4)))

    def run(number: int) -> None:
        with (
            redis.Redis.from_url(penstock_redis.url) as own,
            ClaimedShard.claim(
                own, desk.settings, job=id, shard=number, worker=f"w{number}"
            ) as work,
        ):
            for polls in range(50):
                work.advance("poll", work.shard.evolve(polls=polls))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = [events.decode(f[b"d"]) for _, f in desk.connection.xrange(desk.keys(id).log, "0-2")]
    assert [event.n for event in log] == list(range(2, 202))
    assert {desk.shard(id, number).polls for number in range(4)} == {49}


def test_a_claim_can_end_its_job(desk: Desk, id: str) -> None:
    with desk.claimed(id) as work:
        work.write(work.shard.evolve(counts=Counts(succeeded=1)))
        work.end(State.DONE, {"type": events.END, "state": State.DONE}, cost="1")
    job = JobRecords(desk.connection, desk.settings).read(id)
    assert (job.state, job.shards[0].counts) == (State.DONE, Counts(succeeded=1))
    assert job.record.fields["cost"] == "1"
    with pytest.raises(NotClaimed, match="ended"), desk.claimed(id):
        pytest.fail("claimed an ended job")


def test_a_slot_that_is_free_costs_no_more_in_a_job_of_many_shards(desk: Desk, id: str) -> None:
    planned = {str(n): Shard(number=n, requests=1).encode() for n in range(1, 3_000)}
    desk.connection.hset(desk.keys(id).shards, mapping=planned)
    with desk.claimed(id) as work:
        read = work.job.some_shards(200)
        assert len({shard.number for shard in read}) == 200
        assert len(release_and_wake(work)) == 1


@pytest.mark.parametrize("name", ["meta", "shards", "log", "money"])
def test_a_job_with_a_key_of_another_type_fails_once_with_its_name(
    desk: Desk, id: str, name: str
) -> None:
    keys = desk.keys(id)
    key = getattr(keys, name)
    desk.connection.delete(key)
    desk.connection.sadd(key, "x")
    with pytest.raises(JobUnreadable, match="is a set"), desk.claimed(id):
        pytest.fail("claimed")
    state, error = desk.connection.hmget(keys.meta, "state", "error")
    assert state == b"failed"
    assert f"{key} is a set" in json.loads(error)["message"]
    last = desk.connection.xrevrange(keys.log, count=1)[0][1][b"d"]
    assert json.loads(last)["data"] == {
        "type": events.END,
        "state": "failed",
        "error": json.loads(error),
    }
    with pytest.raises(NotClaimed, match=r"ended|gone"), desk.claimed(id):
        pytest.fail("claimed again")


def test_claims_of_another_type_are_replaced(desk: Desk, id: str) -> None:
    desk.connection.sadd(desk.keys(id).claims, "x")
    with desk.claimed(id) as work:
        assert work.release() == 0
