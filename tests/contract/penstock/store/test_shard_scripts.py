"""The scripts of a shard's claim against their contracts."""

import pytest

from penstock import events
from penstock.batches.shard import Shard
from penstock.ids import new_id
from penstock.store.shard_scripts import Becomes
from tests.contract.penstock.store.calls import clock
from tests.contract.penstock.store.held import EVENT, WAIT_MS, Held


def test_a_claim_sets_the_job_running_and_the_check_at_the_end_of_the_lease(held: Held) -> None:
    before = clock(held.redis)
    kind, epoch, raw, cancel, paused = held.claim()
    assert (kind, cancel, paused) == (b"claimed", b"", b"")
    assert before <= epoch <= clock(held.redis)
    assert Shard.parse(raw).requests == 1
    assert held.redis.hget(held.keys.meta, "state") == b"running"
    assert held.redis.get(held.keys.shard_lease(0)) == b"w:%d" % epoch
    assert held.redis.hget(held.keys.claims, "0") == b"%d w" % epoch
    assert 0 < held.redis.pttl(held.keys.shard_lease(0)) <= 60_000
    assert held.checked_in_ms() == 60_000


def test_a_shard_is_claimed_by_one_worker_at_a_time(held: Held) -> None:
    epoch = held.claim("w1")[1]
    before = held.whole()
    assert held.claim("w2") == [b"leased", b"w1:%d" % epoch]
    assert held.whole() == before
    held.redis.delete(held.keys.shard_lease(0))
    kind, later, *_ = held.claim("w2")
    assert kind == b"claimed"
    assert later > epoch


def test_an_epoch_is_higher_than_any_before_even_if_the_clock_went_back(held: Held) -> None:
    ahead = clock(held.redis) + 10**6
    held.redis.hset(held.keys.claims, "0", f"{ahead} w")
    assert held.claim()[1] == ahead + 1


def test_a_wake_up_that_is_too_early_claims_nothing(held: Held) -> None:
    held.write(held.claim()[1], becomes=30_000)
    before = held.whole()
    kind, left = held.claim(early_ms=1_000)
    assert kind == b"early"
    assert 20_000 < left <= 30_000
    assert held.whole() == before
    assert held.claim(early_ms=30_000)[0] == b"claimed"
    assert held.due() is None


def test_no_shard_is_claimed_during_the_grace_after_a_restart(held: Held) -> None:
    """Lost claims are renewed first; the time of one lease is enough for that."""
    run = held.desk.settings.keys.run
    assert held.claim()[0] == b"claimed"
    held.redis.delete(held.keys.shard_lease(0))
    held.redis.hset(run, "id", "another")
    before = held.whole()
    kind, left = held.claim(lease_ms=60_000)
    assert kind == b"grace"
    assert 0 < left <= 60_000
    assert held.whole() == before
    held.redis.hset(run, "since_ms", clock(held.redis) - 60_000)
    assert held.claim(lease_ms=60_000)[0] == b"claimed"


def test_after_a_stall_no_shard_is_taken_from_a_worker_and_a_released_one_is_claimed(
    held: Held,
) -> None:
    run = held.desk.settings.keys.run
    epoch = held.claim()[1]
    held.redis.delete(held.keys.shard_lease(0))
    held.redis.hset(run, "beat_ms", clock(held.redis) - 60_000)
    before = held.whole()
    kind, left = held.claim("w2")
    assert kind == b"grace"
    assert 0 < left <= 60_000
    assert held.whole() == before
    assert held.reap() == [b"wait"]
    assert 0 < (held.checked_in_ms() or 0) <= 60_000
    assert held.renew(epoch) == [b"ok", b""]
    assert held.claim("w2")[0] == b"leased"
    held.write(epoch, becomes=0)
    assert held.claim("w2")[0] == b"claimed"


def test_a_missing_job_or_shard_is_gone_and_not_created(held: Held) -> None:
    other = Held(held.desk, new_id())
    held.redis.zadd(held.live, {other.member: 1})
    assert other.claim() == [b"gone"]
    assert held.redis.zscore(held.live, other.member) is None
    assert other.write(1, event=EVENT) == [b"fenced"]
    assert other.renew(1) == [b"fenced"]
    assert other.reap() == [b"gone"]
    assert not list(held.redis.scan_iter(f"*{other.keys.id}*"))


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_an_ended_job_is_neither_claimed_nor_written(held: Held, state: str) -> None:
    epoch = held.claim()[1]
    held.redis.hset(held.keys.meta, "state", state)
    before = held.whole()
    assert held.write(epoch, records={0: b"{}"}, event=EVENT, a=1) == [b"fenced"]
    assert held.renew(epoch) == [b"fenced"]
    assert held.whole() == before
    assert held.claim() == [b"ended", state.encode()]
    assert held.redis.zscore(held.live, held.member) is None


def test_a_write_stores_the_shard_and_the_fields_and_logs_and_publishes_the_event(
    held: Held,
) -> None:
    epoch = held.claim()[1]
    with held.redis.pubsub() as channel:
        channel.subscribe(held.keys.events)
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        shard = Shard(number=0, state="sending").encode()
        assert held.write(epoch, records={0: shard}, event=EVENT, a=1) == [b"ok", b"", b"", 0]
        published = channel.get_message(timeout=5)["data"]
    assert held.redis.hget(held.keys.shards, "0") == shard
    assert held.redis.hmget(held.keys.meta, "n", "a") == [b"2", b"1"]
    assert held.redis.xrange(held.keys.log)[-1] == (b"0-2", {b"d": published})
    event = events.decode(published)
    assert (event.epoch, event.n, event.type) == (0, 2, "penstock.progress")
    assert held.redis.get(held.keys.shard_lease(0)) == b"w:%d" % epoch


def test_an_empty_write_changes_nothing(held: Held) -> None:
    epoch = held.claim()[1]
    before = held.whole()
    assert held.write(epoch) == [b"ok", b"", b"", 0]
    assert held.whole() == before


def test_a_new_shard_is_checked_by_the_reaper_and_an_old_one_is_not_changed(held: Held) -> None:
    epoch = held.claim()[1]
    held.write(epoch, records={0: b"{}", 5: Shard(number=5).encode()})
    member = f"{held.keys.id}/5"
    assert round(held.redis.zscore(held.live, member) - clock(held.redis), -3) == WAIT_MS
    assert held.checked_in_ms() == 60_000


def test_shards_left_and_costs_are_counted_once(held: Held) -> None:
    held.redis.hset(held.keys.money, mapping={"cap": 100, "reserved:0": 60, "spent": 5})
    epoch = held.claim()[1]
    for _ in range(2):
        held.write(epoch, spent=40)
    held.write(epoch, left=-1)
    assert held.redis.hget(held.keys.meta, "left") == b"0"
    assert held.redis.hgetall(held.keys.money) == {b"cap": b"100", b"spent": b"45"}
    assert 0 < held.redis.ttl(held.keys.money) <= 500


def test_a_fenced_worker_writes_nothing(held: Held) -> None:
    epoch = held.claim("w1")[1]
    held.redis.delete(held.keys.shard_lease(0))
    held.claim("w2")
    before = held.whole()
    for becomes in ("hold", "park", "done", 0):
        reply = held.write(
            epoch, "w1", becomes=becomes, records={0: b"{}"}, event=EVENT, left=-1, final="done"
        )
        assert reply == [b"fenced"]
    assert held.renew(epoch, "w1") == [b"fenced"]
    assert held.whole() == before


@pytest.mark.parametrize("becomes", ["park", "done", 0, 5_000])
def test_a_claim_that_was_given_up_is_not_restored(held: Held, becomes: Becomes) -> None:
    epoch = held.claim()[1]
    held.write(epoch, becomes=becomes, pause=b"{}")
    before = held.whole()
    assert held.renew(epoch) == [b"fenced"]
    assert held.write(epoch, records={0: b"{}"}) == [b"fenced"]
    assert held.whole() == before


@pytest.mark.parametrize("what", ["renew", "write"])
def test_a_claim_that_redis_lost_is_restored(held: Held, what: str) -> None:
    epoch = held.claim()[1]
    held.forget_claims(epoch - 10)
    assert getattr(held, what)(epoch)[0] == b"ok"
    assert held.redis.hget(held.keys.claims, "0") == b"%d w" % epoch
    held.redis.delete(held.keys.claims, held.keys.shard_lease(0))
    assert getattr(held, what)(epoch)[0] == b"ok"
    assert 0 < held.redis.ttl(held.keys.claims) <= 1_000


@pytest.mark.parametrize("what", ["renew", "write"])
def test_a_claim_that_redis_lost_is_not_restored_when_an_older_one_has_sent_the_shard(
    held: Held, what: str
) -> None:
    epoch = held.claim()[1]
    held.forget_claims(epoch - 10)
    held.redis.delete(held.keys.shard_lease(0))
    held.desk.change(held.keys.id, state="sending", sent_ms=5)
    before = held.whole()
    assert getattr(held, what)(epoch) == [b"fenced"]
    assert held.whole() == before
    held.desk.change(held.keys.id, state="sending", sent_ms=0)
    assert getattr(held, what)(epoch)[0] == b"ok"


@pytest.mark.parametrize("what", ["renew", "write"])
def test_a_claim_that_redis_lost_is_not_restored_over_another(held: Held, what: str) -> None:
    epoch = held.claim("w")[1]
    held.forget_claims(epoch - 10)
    held.claim("w2")
    before = held.whole()
    assert getattr(held, what)(epoch) == [b"fenced"]
    held.redis.delete(held.keys.shard_lease(0))  # nor after that one has gone
    assert getattr(held, what)(epoch) == [b"fenced"]
    held.redis.set(held.keys.shard_lease(0), before[5], ex=60)
    assert held.whole() == before


def test_a_lease_restored_by_a_redis_restart_is_respected(held: Held) -> None:
    epoch = held.claim()[1]
    held.forget_claims(epoch - 10)
    held.redis.set(held.keys.shard_lease(0), f"w0:{epoch - 10}", ex=60)
    assert held.renew(epoch) == [b"fenced"]
    assert held.write(epoch) == [b"fenced"]


def test_a_renewal_extends_the_lease_and_postpones_the_check(held: Held) -> None:
    epoch = held.claim(lease_ms=2_000)[1]
    assert held.renew(epoch) == [b"ok", b""]
    assert held.redis.pttl(held.keys.shard_lease(0)) > 50_000
    assert held.checked_in_ms() == 60_000
    held.records.cancel(held.keys.id, "alice")
    assert held.renew(epoch) == [b"ok", b"alice"]


def test_a_release_makes_the_shard_due_and_schedules_a_check(held: Held) -> None:
    assert held.write(held.claim()[1], becomes=20_000)[3] == 20_000
    assert not held.redis.exists(held.keys.shard_lease(0))
    assert held.checked_in_ms() == 20_000 + WAIT_MS
    assert round(int(held.due() or 0) - clock(held.redis), -3) == 20_000
    epoch = held.claim(early_ms=20_000)[1]
    assert held.write(epoch, becomes=0)[3] == 0
    assert held.due() is None
    assert held.checked_in_ms() == WAIT_MS


def test_a_shard_that_is_done_is_no_longer_checked(held: Held) -> None:
    held.write(held.claim()[1], becomes="done")
    assert held.checked_in_ms() is None
    assert not held.redis.exists(held.keys.shard_lease(0))


def test_a_pause_parks_the_shard_and_is_recorded(held: Held) -> None:
    epoch = held.claim()[1]
    assert held.write(epoch, becomes="park", pause=b'{"type":"x"}') == [
        b"ok",
        b"",
        b'{"type":"x"}',
        -1,
    ]
    assert held.checked_in_ms() is None
    assert held.claim()[4] == b'{"type":"x"}'


def test_a_parked_shard_with_a_batch_at_the_api_is_checked_daily(held: Held) -> None:
    assert held.write(held.claim()[1], becomes="rest", pause=b'{"type":"x"}')[3] == -1
    assert held.checked_in_ms() == 86_400_000


@pytest.mark.parametrize("becomes", ["park", "rest"])
def test_a_resume_during_a_step_keeps_the_shard_from_being_parked(
    held: Held, becomes: Becomes
) -> None:
    epoch = held.claim()[1]
    assert held.write(epoch, becomes=becomes)[3] == 0
    assert held.checked_in_ms() == 0


@pytest.mark.parametrize("becomes", ["park", "rest", 300_000])
def test_a_cancel_during_a_step_makes_the_shard_due_at_once(held: Held, becomes: Becomes) -> None:
    epoch = held.claim()[1]
    held.records.cancel(held.keys.id, "alice")
    assert held.write(epoch, becomes=becomes, pause=b'{"type":"x"}') == [b"ok", b"alice", b"", 0]
    assert held.due() is None
    assert held.checked_in_ms() == 0
    assert held.redis.hget(held.keys.meta, "paused") is None


def test_a_step_that_knew_of_the_cancel_waits_as_requested_and_is_never_parked(held: Held) -> None:
    held.records.cancel(held.keys.id, "alice")
    assert held.write(held.claim()[1], becomes=300_000, saw_cancel=True)[3] == 300_000
    epoch = held.claim(early_ms=300_000)[1]
    assert held.write(epoch, becomes="park", pause=b'{"type":"x"}', saw_cancel=True)[3] == WAIT_MS
    assert held.checked_in_ms() == 2 * WAIT_MS


def test_the_last_event_and_the_release_are_part_of_the_write(held: Held) -> None:
    epoch = held.claim()[1]
    held.redis.hset(held.keys.meta, "paused", "{}")
    held.write(epoch, event=EVENT, final="done")
    keys = held.keys
    assert held.redis.hget(keys.meta, "state") == b"done"
    assert held.redis.hget(keys.meta, "paused") is None
    assert abs(int(held.redis.hget(keys.meta, "ended_ms")) - clock(held.redis)) < 60_000
    assert not held.redis.exists(keys.shard_lease(0))
    assert held.checked_in_ms() is None
    assert all(
        0 < held.redis.ttl(k) <= 500 for k in (keys.meta, keys.shards, keys.log, keys.claims)
    )


def test_a_write_of_a_shard_renews_every_ttl(held: Held) -> None:
    epoch, keys = held.claim()[1], held.keys
    for key in (keys.meta, keys.shards, keys.log, keys.claims):
        held.redis.expire(key, 10)
    held.write(epoch)
    assert all(held.redis.ttl(k) > 400 for k in (keys.meta, keys.shards, keys.log, keys.claims))
