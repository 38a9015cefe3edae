"""The scripts of jobs and of shared limits, against their contracts."""

from typing import Any

import pytest

from penstock import events
from penstock.batches.shard import Shard
from penstock.store import limit_scripts
from penstock.store.limit_scripts import SizeLockHolder
from tests.contract.penstock.store.calls import clock, reply
from tests.contract.penstock.store.held import WAIT_MS, Held


@pytest.mark.parametrize("what", ["cancel", "resume"])
def test_a_canceled_or_resumed_job_has_all_its_shards_due_at_once(held: Held, what: str) -> None:
    held.write(held.claim()[1], becomes=300_000)
    held.redis.hset(held.keys.meta, "paused", "{}")
    held.desk.write(held.keys.id, Shard(number=1))
    held.redis.zrem(held.live, f"{held.keys.id}/1")  # parked
    assert getattr(held.records, what)(held.keys.id, "alice") == "running"
    assert held.due() is None
    assert held.checked_in_ms() == 0
    assert held.redis.zscore(held.live, f"{held.keys.id}/1") <= clock(held.redis)
    assert held.redis.hget(held.keys.meta, "paused") is None
    assert held.claim()[3] == (b"alice" if what == "cancel" else b"")


def test_a_job_is_not_canceled_or_resumed_twice_nor_after_its_end(held: Held) -> None:
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


def test_readers_get_an_event_of_the_resume(held: Held) -> None:
    held.redis.hset(held.keys.meta, "paused", "{}")
    held.records.resume(held.keys.id, "bob")
    event = events.decode(held.redis.xrange(held.keys.log)[-1][1][b"d"])
    assert (event.n, event.type, event.data["by"]) == (2, events.RESUMED, "bob")


def test_the_reaper_does_not_wake_a_shard_with_a_lease(held: Held) -> None:
    held.claim(lease_ms=30_000)
    assert held.reap() == [b"wait"]
    assert held.checked_in_ms() == 30_000


def test_the_reaper_wakes_a_shard_without_a_lease_and_waits_longer_each_time(held: Held) -> None:
    held.desk.change(held.keys.id, state="ended")
    waits = []
    for _ in range(5):
        kind, raw = held.reap()
        assert (kind, Shard.parse(raw).state) == (b"wake", "ended")
        waits.append(held.checked_in_ms())
    assert waits == [WAIT_MS * times for times in (1, 2, 4, 6, 6)]
    held.redis.delete(held.keys.shard_lease(0))
    held.write(held.claim()[1], becomes=0)
    held.reap()
    assert held.checked_in_ms() == WAIT_MS


def slot(held: Held, member: str, requests: int, *, batches: int = 2, most: int = 10) -> Any:
    call = limit_scripts.acquire_active_batch(
        held.shared,
        member=member,
        requests=requests,
        max_batches=batches,
        max_requests=most,
        ttl_ms=50_000,
    )
    return reply(held.redis, call)


def test_active_batches_stay_within_both_limits(held: Held) -> None:
    assert slot(held, "a", 6) == 1
    assert slot(held, "b", 5) == 0
    assert slot(held, "b", 4) == 1
    assert slot(held, "c", 0) == 0
    assert slot(held, "a", 6) == 1  # it is counted already
    key = held.desk.settings.keys.active_batches
    held.redis.hdel(key, "a")
    assert slot(held, "c", 6) == 1
    assert 0 < held.redis.pttl(key) <= 50_000


def test_a_shard_above_the_limit_is_active_alone(held: Held) -> None:
    assert slot(held, "small", 1) == 1
    assert slot(held, "large", 11) == 0
    held.redis.delete(held.desk.settings.keys.active_batches)
    assert slot(held, "large", 11) == 1
    assert slot(held, "small", 1) == 0


def test_an_active_batch_that_was_never_released_expires(held: Held) -> None:
    key = held.desk.settings.keys.active_batches
    held.redis.hset(key, "dead", f"9 {clock(held.redis) - 1}")
    assert slot(held, "a", 10) == 1
    assert held.redis.hkeys(key) == [b"a"]


def reserve(held: Held, shard: int, amount: int) -> Any:
    call = limit_scripts.reserve_cost(held.keys, shard=shard, amount=amount, ttl_s=100)
    return reply(held.redis, call)


def test_an_unknown_cost_is_settled_at_the_whole_reservation(held: Held) -> None:
    held.redis.hset(held.keys.money, mapping={"cap": 100, "reserved:0": 60, "spent": 5})
    epoch = held.claim()[1]
    for _ in range(2):
        held.write(epoch, spent="all")
    assert held.redis.hgetall(held.keys.money) == {b"cap": b"100", b"spent": b"65"}


def test_costs_are_reserved_up_to_the_cap(held: Held) -> None:
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


def tag(held: Held, member: str, nonce: str, *, drop: tuple[str, str] | None = None) -> Any:
    call = limit_scripts.acquire_size_lock(
        held.shared,
        7,
        member=member,
        nonce=nonce,
        ttl_s=100,
        stale=SizeLockHolder(*drop) if drop else None,
    )
    return reply(held.redis, call)


def test_a_size_lock_has_one_open_call_at_a_time(held: Held) -> None:
    assert tag(held, "j/0", "n1") == b""
    assert tag(held, "j/1", "n2") == [b"open:j/0", b"n1"]
    assert tag(held, "j/0", "n3") == b""
    assert tag(held, "j/1", "n2", drop=("open:j/0", "n1")) == [b"open:j/0", b"n3"]
    assert tag(held, "j/1", "n2", drop=("open:j/0", "n3")) == b""
    key = held.desk.settings.keys.size_lock(7)
    assert held.redis.hgetall(key) == {b"open:j/1": b"n2"}
    assert 0 < held.redis.ttl(key) <= 100


def test_a_size_lock_of_a_lost_call_can_be_acquired(held: Held) -> None:
    key = held.desk.settings.keys.size_lock(7)
    held.redis.hset(key, "abandoned:j/0", "5")
    assert tag(held, "j/1", "n") == b""
    assert held.redis.hkeys(key) == [b"abandoned:j/0", b"open:j/1"]
