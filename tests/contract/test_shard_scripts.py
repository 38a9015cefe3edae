"""The scripts of a shard's claim against what their headers promise."""

from collections.abc import Iterator
from typing import Any

import pytest

from penstock import events
from penstock.embedded import EmbeddedRedis
from penstock.ids import new_id
from penstock.jobs import JobRecords
from penstock.scripts import script
from penstock.shards import Shard
from tests.contract.calls import clock
from tests.contract.jobs import Desk, params

EVENT = b'{"type":"penstock.progress"}'
WAIT_MS = 7_000


class Held:
    """The scripts, called for shard 0 of a job as `ClaimedShard` calls them."""

    def __init__(self, desk: Desk, id: str) -> None:
        self.desk = desk
        self.redis = desk.connection
        self.keys = desk.keys(id)
        self.live = desk.settings.keys.live_shards
        self.member = f"{id}/0"
        self.records = JobRecords(desk.connection, desk.settings)

    def claim(self, worker: str = "w", *, early_ms: int = 0, lease_ms: int = 60_000) -> Any:
        keys = self.keys
        names = [keys.meta, keys.shards, keys.shard_lease(0), keys.claims, self.live]
        return script("shard_claim")(
            self.redis, [*names, self.desk.settings.keys.run], [0, worker, lease_ms, early_ms]
        )

    def renew(self, epoch: int, worker: str = "w") -> Any:
        keys = self.keys
        names = [keys.meta, keys.shard_lease(0), keys.claims, self.live]
        return script("shard_renew")(self.redis, names, [0, worker, epoch, 60_000])

    def write(
        self,
        epoch: int,
        worker: str = "w",
        *,
        becomes: str | int = "hold",
        event: bytes = b"",
        final: str = "",
        pause: bytes = b"",
        left: int = 0,
        spent: int | str = "",
        knew: bool = False,
        records: dict[int, bytes] | None = None,
        **meta: Any,
    ) -> Any:
        keys = self.keys
        names = [keys.meta, keys.shards, keys.log, keys.shard_lease(0), keys.events]
        args = [0, worker, epoch, 500, becomes, WAIT_MS, event, final, pause, left, spent]
        args += ["1" if knew else "", len(records or {})]
        args += [item for pair in (records or {}).items() for item in pair]
        args += [item for pair in meta.items() for item in pair]
        return script("shard_write")(self.redis, [*names, keys.claims, self.live, keys.money], args)

    def reap(self) -> Any:
        keys = self.keys
        names = [keys.meta, keys.shards, keys.shard_lease(0), keys.claims, self.live]
        return script("reap_shard")(self.redis, names, [0, WAIT_MS])

    def whole(self) -> list[Any]:
        """All that Redis holds of the job."""
        keys = self.keys
        hashes = [self.redis.hgetall(k) for k in (keys.meta, keys.shards, keys.claims, keys.money)]
        lease, score = (
            self.redis.get(keys.shard_lease(0)),
            self.redis.zscore(self.live, self.member),
        )
        return [*hashes, self.redis.xrange(keys.log), lease, score]

    def forget_claims(self, epoch: int) -> None:
        """Lose what a Redis lost that went back to an earlier claim."""
        self.redis.hset(self.keys.claims, "0", f"{epoch} w0")
        self.redis.delete(self.keys.shard_lease(0))

    def look_in_ms(self) -> int | None:
        """When the reaper looks at the shard, from now."""
        score = self.redis.zscore(self.live, self.member)
        return None if score is None else round(score - clock(self.redis), -3)

    def due(self) -> bytes | None:
        return self.redis.hget(self.keys.claims, "0:due")  # type: ignore[no-any-return]


@pytest.fixture
def held(penstock_redis: EmbeddedRedis) -> Iterator[Held]:
    desk = Desk(penstock_redis)
    yield Held(desk, desk.submit([params()]))
    desk.close()


def test_a_claim_sets_the_job_running_and_the_reaper_at_the_end_of_the_lease(held: Held) -> None:
    before = clock(held.redis)
    verdict, epoch, raw, cancel, paused = held.claim()
    assert (verdict, cancel, paused) == (b"claimed", b"", b"")
    assert before <= epoch <= clock(held.redis)
    assert Shard.parse(raw).requests == 1
    assert held.redis.hget(held.keys.meta, "state") == b"running"
    assert held.redis.get(held.keys.shard_lease(0)) == b"w:%d" % epoch
    assert held.redis.hget(held.keys.claims, "0") == b"%d w" % epoch
    assert 0 < held.redis.pttl(held.keys.shard_lease(0)) <= 60_000
    assert held.look_in_ms() == 60_000


def test_a_shard_is_claimed_by_one_at_a_time(held: Held) -> None:
    epoch = held.claim("w1")[1]
    before = held.whole()
    assert held.claim("w2") == [b"leased", b"w1:%d" % epoch]
    assert held.whole() == before
    held.redis.delete(held.keys.shard_lease(0))
    verdict, later, *_ = held.claim("w2")
    assert verdict == b"claimed"
    assert later > epoch


def test_an_epoch_is_higher_than_any_before_also_where_the_clock_went_back(held: Held) -> None:
    ahead = clock(held.redis) + 10**6
    held.redis.hset(held.keys.claims, "0", f"{ahead} w")
    assert held.claim()[1] == ahead + 1


def test_a_message_that_comes_before_its_time_finds_nothing_to_do(held: Held) -> None:
    held.write(held.claim()[1], becomes=30_000)
    before = held.whole()
    verdict, left = held.claim(early_ms=1_000)
    assert verdict == b"early"
    assert 20_000 < left <= 30_000
    assert held.whole() == before
    assert held.claim(early_ms=30_000)[0] == b"claimed"
    assert held.due() is None


def test_nothing_is_claimed_before_a_restarted_redis_has_settled(held: Held) -> None:
    """Claims that it lost are renewed first; the length of a lease is enough for that."""
    run = held.desk.settings.keys.run
    assert held.claim()[0] == b"claimed"
    held.redis.delete(held.keys.shard_lease(0))
    held.redis.hset(run, "id", "another")
    before = held.whole()
    verdict, left = held.claim(lease_ms=60_000)
    assert verdict == b"settling"
    assert 0 < left <= 60_000
    assert held.whole() == before
    held.redis.hset(run, "since_ms", clock(held.redis) - 60_000)
    assert held.claim(lease_ms=60_000)[0] == b"claimed"


def test_a_job_or_shard_that_is_not_there_is_gone_and_not_made(held: Held) -> None:
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


def test_a_write_stores_notes_logs_and_publishes(held: Held) -> None:
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


def test_a_write_of_nothing_changes_nothing(held: Held) -> None:
    epoch = held.claim()[1]
    before = held.whole()
    assert held.write(epoch) == [b"ok", b"", b"", 0]
    assert held.whole() == before


def test_a_new_shard_is_looked_at_by_the_reaper_and_an_old_one_is_not_touched(held: Held) -> None:
    epoch = held.claim()[1]
    held.write(epoch, records={0: b"{}", 5: Shard(number=5).encode()})
    member = f"{held.keys.id}/5"
    assert round(held.redis.zscore(held.live, member) - clock(held.redis), -3) == WAIT_MS
    assert held.look_in_ms() == 60_000


def test_what_is_left_and_what_is_spent_are_counted_once(held: Held) -> None:
    held.redis.hset(held.keys.money, mapping={"cap": 100, "reserved:0": 60, "spent": 5})
    epoch = held.claim()[1]
    for _ in range(2):
        held.write(epoch, spent=40)
    held.write(epoch, left=-1)
    assert held.redis.hget(held.keys.meta, "left") == b"0"
    assert held.redis.hgetall(held.keys.money) == {b"cap": b"100", b"spent": b"45"}
    assert 0 < held.redis.ttl(held.keys.money) <= 500


def test_a_zombie_writes_nothing(held: Held) -> None:
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
def test_a_claim_that_was_given_up_is_not_taken_back(held: Held, becomes: str | int) -> None:
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
def test_a_claim_that_redis_lost_is_not_restored_over_another(held: Held, what: str) -> None:
    epoch = held.claim("w")[1]
    held.forget_claims(epoch - 10)
    held.claim("w2")
    before = held.whole()
    assert getattr(held, what)(epoch) == [b"fenced"]
    held.redis.delete(held.keys.shard_lease(0))  # nor when that one has gone again
    assert getattr(held, what)(epoch) == [b"fenced"]
    held.redis.set(held.keys.shard_lease(0), before[5], ex=60)
    assert held.whole() == before


def test_a_lease_that_came_back_with_an_older_redis_is_respected(held: Held) -> None:
    epoch = held.claim()[1]
    held.forget_claims(epoch - 10)
    held.redis.set(held.keys.shard_lease(0), f"w0:{epoch - 10}", ex=60)
    assert held.renew(epoch) == [b"fenced"]
    assert held.write(epoch) == [b"fenced"]


def test_a_renewal_keeps_lease_and_reaper_away(held: Held) -> None:
    epoch = held.claim(lease_ms=2_000)[1]
    assert held.renew(epoch) == [b"ok", b""]
    assert held.redis.pttl(held.keys.shard_lease(0)) > 50_000
    assert held.look_in_ms() == 60_000
    held.records.cancel(held.keys.id, "alice")
    assert held.renew(epoch) == [b"ok", b"alice"]


def test_a_release_makes_the_shard_due_and_has_the_reaper_look_after_it(held: Held) -> None:
    assert held.write(held.claim()[1], becomes=20_000)[3] == 20_000
    assert not held.redis.exists(held.keys.shard_lease(0))
    assert held.look_in_ms() == 20_000 + WAIT_MS
    assert round(int(held.due() or 0) - clock(held.redis), -3) == 20_000
    epoch = held.claim(early_ms=20_000)[1]
    assert held.write(epoch, becomes=0)[3] == 0
    assert held.due() is None
    assert held.look_in_ms() == WAIT_MS


def test_what_is_done_is_not_looked_at_again(held: Held) -> None:
    held.write(held.claim()[1], becomes="done")
    assert held.look_in_ms() is None
    assert not held.redis.exists(held.keys.shard_lease(0))


def test_a_pause_parks_the_shard_and_is_recorded(held: Held) -> None:
    epoch = held.claim()[1]
    assert held.write(epoch, becomes="park", pause=b'{"type":"x"}') == [
        b"ok",
        b"",
        b'{"type":"x"}',
        -1,
    ]
    assert held.look_in_ms() is None
    assert held.claim()[4] == b'{"type":"x"}'


def test_a_pause_that_was_lifted_while_the_step_ran_does_not_park(held: Held) -> None:
    epoch = held.claim()[1]
    assert held.write(epoch, becomes="park")[3] == 0
    assert held.look_in_ms() == 0


@pytest.mark.parametrize("becomes", ["park", 300_000])
def test_a_cancel_that_came_while_the_step_ran_lets_it_run_again_at_once(
    held: Held, becomes: str | int
) -> None:
    epoch = held.claim()[1]
    held.records.cancel(held.keys.id, "alice")
    assert held.write(epoch, becomes=becomes, pause=b'{"type":"x"}') == [b"ok", b"alice", b"", 0]
    assert held.due() is None
    assert held.look_in_ms() == 0
    assert held.redis.hget(held.keys.meta, "paused") is None


def test_a_step_that_knows_of_the_cancel_waits_as_it_asked_and_is_never_parked(held: Held) -> None:
    held.records.cancel(held.keys.id, "alice")
    assert held.write(held.claim()[1], becomes=300_000, knew=True)[3] == 300_000
    epoch = held.claim(early_ms=300_000)[1]
    assert held.write(epoch, becomes="park", pause=b'{"type":"x"}', knew=True)[3] == WAIT_MS
    assert held.look_in_ms() == 2 * WAIT_MS


def test_the_end_and_the_release_come_with_the_write(held: Held) -> None:
    epoch = held.claim()[1]
    held.redis.hset(held.keys.meta, "paused", "{}")
    held.write(epoch, event=EVENT, final="done")
    keys = held.keys
    assert held.redis.hget(keys.meta, "state") == b"done"
    assert held.redis.hget(keys.meta, "paused") is None
    assert abs(int(held.redis.hget(keys.meta, "ended_ms")) - clock(held.redis)) < 60_000
    assert not held.redis.exists(keys.shard_lease(0))
    assert held.look_in_ms() is None
    assert all(
        0 < held.redis.ttl(k) <= 500 for k in (keys.meta, keys.shards, keys.log, keys.claims)
    )


def test_a_write_renews_every_lifetime(held: Held) -> None:
    epoch, keys = held.claim()[1], held.keys
    for key in (keys.meta, keys.shards, keys.log, keys.claims):
        held.redis.expire(key, 10)
    held.write(epoch)
    assert all(held.redis.ttl(k) > 400 for k in (keys.meta, keys.shards, keys.log, keys.claims))


@pytest.mark.parametrize("what", ["cancel", "resume"])
def test_a_roused_job_has_all_its_shards_due_at_once(held: Held, what: str) -> None:
    held.write(held.claim()[1], becomes=300_000)
    held.redis.hset(held.keys.meta, "paused", "{}")
    held.desk.write(held.keys.id, Shard(number=1))
    held.redis.zrem(held.live, f"{held.keys.id}/1")  # parked
    assert getattr(held.records, what)(held.keys.id, "alice") == "running"
    assert held.due() is None
    assert held.look_in_ms() == 0
    assert held.redis.zscore(held.live, f"{held.keys.id}/1") <= clock(held.redis)
    assert held.redis.hget(held.keys.meta, "paused") is None
    assert held.claim()[3] == (b"alice" if what == "cancel" else b"")


def test_nothing_is_roused_twice_nor_behind_its_end(held: Held) -> None:
    assert held.records.resume(held.keys.id, "bob") == "queued"  # it is not paused
    held.records.cancel(held.keys.id, "alice")
    before = held.whole()
    held.records.cancel(held.keys.id, "bob")
    assert held.whole() == before
    held.write(held.claim()[1], final="canceled")
    before = held.whole()
    for call in (held.records.cancel, held.records.resume):
        assert call(held.keys.id, "bob") == "canceled"
    assert held.whole() == before


def test_the_resume_is_told_to_readers(held: Held) -> None:
    held.redis.hset(held.keys.meta, "paused", "{}")
    held.records.resume(held.keys.id, "bob")
    event = events.decode(held.redis.xrange(held.keys.log)[-1][1][b"d"])
    assert (event.n, event.type, event.data["by"]) == (2, events.RESUMED, "bob")


def test_the_reaper_leaves_a_shard_alone_while_its_lease_lives(held: Held) -> None:
    held.claim(lease_ms=30_000)
    assert held.reap() == [b"wait"]
    assert held.look_in_ms() == 30_000


def test_the_reaper_wakes_what_nobody_holds_and_is_more_patient_each_time(held: Held) -> None:
    held.desk.change(held.keys.id, state="ended")
    waits = []
    for _ in range(5):
        verdict, raw = held.reap()
        assert (verdict, Shard.parse(raw).state) == (b"wake", "ended")
        waits.append(held.look_in_ms())
    assert waits == [WAIT_MS * times for times in (1, 2, 4, 6, 6)]
    held.redis.delete(held.keys.shard_lease(0))
    held.write(held.claim()[1], becomes=0)
    held.reap()
    assert held.look_in_ms() == WAIT_MS


def slot(held: Held, member: str, requests: int, *, batches: int = 2, most: int = 10) -> Any:
    key = held.desk.settings.keys.slots
    return script("slot_take")(held.redis, [key], [member, requests, batches, most, 50_000])


def test_slots_keep_the_deployment_within_both_limits(held: Held) -> None:
    assert slot(held, "a", 6) == 1
    assert slot(held, "b", 5) == 0
    assert slot(held, "b", 4) == 1
    assert slot(held, "c", 0) == 0
    assert slot(held, "a", 6) == 1  # it has its slot already
    key = held.desk.settings.keys.slots
    held.redis.hdel(key, "a")
    assert slot(held, "c", 6) == 1
    assert 0 < held.redis.pttl(key) <= 50_000


def test_a_shard_beyond_the_limit_gets_its_slot_alone(held: Held) -> None:
    assert slot(held, "small", 1) == 1
    assert slot(held, "large", 11) == 0
    held.redis.delete(held.desk.settings.keys.slots)
    assert slot(held, "large", 11) == 1
    assert slot(held, "small", 1) == 0


def test_a_slot_that_nobody_gave_back_counts_no_more(held: Held) -> None:
    key = held.desk.settings.keys.slots
    held.redis.hset(key, "dead", f"9 {clock(held.redis) - 1}")
    assert slot(held, "a", 10) == 1
    assert held.redis.hkeys(key) == [b"a"]


def reserve(held: Held, shard: int, amount: int) -> Any:
    return script("money_reserve")(held.redis, [held.keys.money], [shard, amount, 100])


def test_money_is_reserved_up_to_the_cap(held: Held) -> None:
    assert reserve(held, 0, 10**9) == b"ok"  # no cap
    assert not held.redis.exists(held.keys.money)
    held.redis.hset(held.keys.money, mapping={"cap": 100, "spent": 30})
    assert reserve(held, 0, 71) == b"over"
    assert reserve(held, 0, 50) == b"ok"
    assert reserve(held, 1, 21) == b"wait"
    assert reserve(held, 0, 70) == b"ok"  # its own reservation is replaced
    assert reserve(held, 1, 0) == b"ok"
    assert held.redis.hget(held.keys.money, "reserved:0") == b"70"
    assert 0 < held.redis.ttl(held.keys.money) <= 100


def tag(held: Held, member: str, nonce: str, *, drop: tuple[str, str] = ("", "")) -> Any:
    key = held.desk.settings.keys.tag(7)
    return script("tag_take")(held.redis, [key], [member, nonce, 100, *drop])


def test_a_size_has_one_open_call_at_a_time(held: Held) -> None:
    assert tag(held, "j/0", "n1") == b""
    assert tag(held, "j/1", "n2") == [b"open:j/0", b"n1"]
    assert tag(held, "j/0", "n3") == b""
    assert tag(held, "j/1", "n2", drop=("open:j/0", "n1")) == [b"open:j/0", b"n3"]
    assert tag(held, "j/1", "n2", drop=("open:j/0", "n3")) == b""
    key = held.desk.settings.keys.tag(7)
    assert held.redis.hgetall(key) == {b"open:j/1": b"n2"}
    assert 0 < held.redis.ttl(key) <= 100


def test_a_size_of_a_lost_call_can_be_taken(held: Held) -> None:
    key = held.desk.settings.keys.tag(7)
    held.redis.hset(key, "lost:j/0", "5")
    assert tag(held, "j/1", "n") == b""
    assert held.redis.hkeys(key) == [b"lost:j/0", b"open:j/1"]
