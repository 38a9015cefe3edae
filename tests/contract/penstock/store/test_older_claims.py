"""A worker that has claimed a record twice: only its later claim counts.

The name of the worker is the same, so the epoch alone shows which claim a call belongs to. It
happens when a lease expired during an outage and the same process took the record over from itself.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from penstock import events
from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from tests.contract.penstock.store.calls import (
    PREFIX,
    Listener,
    claim,
    clock,
    line,
    live,
    release,
    renew,
    submit,
    whole,
    write,
)
from tests.contract.penstock.store.held import EVENT, Held

LATE_CALLS: dict[str, tuple[Callable[..., Any], Any]] = {
    "renew": (lambda redis, keys, epoch: renew(redis, keys, epoch, ttl=3_000), [b"fenced"]),
    "release": (lambda redis, keys, epoch: release(redis, keys, epoch, due_ms=90_000), 0),
    "write": (
        lambda redis, keys, epoch: write(redis, keys, 3, epoch=epoch, text="z", final="done"),
        [b"fenced", 10],
    ),
    "fields": (
        lambda redis, keys, epoch: write(redis, keys, 3, 0, epoch=epoch, a=1),
        [b"fenced", 10],
    ),
}


@pytest.fixture
def connection(penstock_redis: EmbeddedRedis) -> Iterator[Any]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield connection


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a request that ``w`` has claimed with epoch 9 and again with epoch 10."""
    keys = Keys(PREFIX).request(new_id())
    submit(connection, keys)
    connection.hset(keys.meta, "epoch", 8)
    assert claim(connection, keys)[:2] == [b"claimed", 9]
    assert write(connection, keys, 2, epoch=9, text="a") == [b"ok", 2, b""]
    connection.delete(keys.lease)
    assert claim(connection, keys)[:2] == [b"claimed", 10]
    return keys


@pytest.mark.parametrize("epoch", [9, 2])
@pytest.mark.parametrize("what", LATE_CALLS)
def test_a_call_with_an_older_epoch_of_the_same_worker_is_fenced(
    penstock_redis: EmbeddedRedis, connection: Any, keys: RequestKeys, what: str, epoch: int
) -> None:
    """Epochs are numbers: as text, 9 would come after 10."""
    call, expected = LATE_CALLS[what]
    listener, before = Listener(penstock_redis, keys), whole(connection, keys)
    assert call(connection, keys, epoch) == expected
    assert whole(connection, keys) == before
    assert listener.received() == []
    listener.close()


def test_the_later_claim_is_renewed_written_and_released(
    connection: Any, keys: RequestKeys
) -> None:
    assert renew(connection, keys, 10) == [b"ok", b"", 2]
    assert write(connection, keys, 3, epoch=10, text="b") == [b"ok", 3, b""]
    assert connection.get(keys.lease) == b"w:10"
    assert connection.get(keys.text) == b"ab"
    assert release(connection, keys, 10) == 1


def test_a_renewal_of_a_lost_claim_compares_epochs_as_numbers(
    connection: Any, keys: RequestKeys
) -> None:
    """Redis has lost the claim with epoch 10, and the record is that of epoch 9 again."""
    connection.hset(keys.meta, mapping={"epoch": 9, "worker": "another"})
    connection.delete(keys.lease)
    before = whole(connection, keys)
    assert renew(connection, keys, 10) == [b"ok", b"", 2]
    assert whole(connection, keys) == before


def test_a_renewal_without_a_record_reports_no_event_and_creates_nothing(connection: Any) -> None:
    keys = Keys(PREFIX).request(new_id())
    assert renew(connection, keys) == [b"ok", b"", -1]
    assert not list(connection.scan_iter(f"*{keys.id}*"))
    assert connection.zscore(live(keys), keys.id) is None


def test_a_renewal_of_a_lost_claim_reports_a_cancel(connection: Any, keys: RequestKeys) -> None:
    connection.hset(keys.meta, mapping={"epoch": 8, "cancel": "alice"})
    assert renew(connection, keys, 9) == [b"ok", b"alice", 2]


def test_a_renewal_sets_the_lease_and_the_check_for_its_whole_time(
    connection: Any, keys: RequestKeys
) -> None:
    before = clock(connection)
    assert renew(connection, keys, 10, lease_ms=45_000) == [b"ok", b"", 2]
    after = clock(connection)
    assert before + 45_000 <= connection.pexpiretime(keys.lease) <= after + 45_000
    assert before + 45_000 <= connection.zscore(live(keys), keys.id) <= after + 45_000


def test_a_renewal_leaves_lifetimes_until_half_of_them_has_passed(
    connection: Any, keys: RequestKeys
) -> None:
    names = (keys.meta, keys.log, keys.text, keys.request)
    for ttl, expected in ((50_050, 50_050), (49_950, 100_000)):
        for name in names:
            connection.expire(name, ttl)
        renew(connection, keys, 10, ttl=100_000)
        assert all(expected - 50 < connection.ttl(name) <= expected for name in names)


def test_a_write_that_spans_the_end_of_the_log_is_a_gap(connection: Any, keys: RequestKeys) -> None:
    """Its first event is in the log and its last is not: another call wrote there."""
    before = whole(connection, keys)
    assert write(connection, keys, 2, 2, epoch=10) == [b"gap", 2]
    assert whole(connection, keys) == before


def test_a_write_restores_a_lost_claim_with_the_events_under_its_own_epoch(
    connection: Any, keys: RequestKeys
) -> None:
    connection.hset(keys.meta, mapping={"epoch": 9, "worker": "another", "state": "queued"})
    assert write(connection, keys, 3, 2, epoch=10, text="b", a="x") == [b"ok", 4, b""]
    assert [id for id, _ in connection.xrange(keys.log)][-2:] == [b"10-3", b"10-4"]
    last = connection.xrevrange(keys.log, count=1)[0][1][b"d"]
    assert last == line(10, 4, "b")
    assert events.decode(last).n == 4
    found = connection.hmget(keys.meta, "epoch", "worker", "state", "n", "a")
    assert found == [b"10", b"w", b"running", b"4", b"x"]


def test_the_text_expires_with_a_record_that_is_about_to_expire(
    connection: Any, keys: RequestKeys
) -> None:
    """But not at once: readers of the last event read the text."""
    connection.delete(keys.text)
    connection.pexpire(keys.meta, 900)
    assert write(connection, keys, 3, epoch=10, text="b", ttl=None)[0] == b"ok"
    assert 500 < connection.pttl(keys.text) <= 1_000


# -- shards -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["renew", "write"])
def test_a_call_for_a_shard_with_an_older_epoch_of_the_same_worker_is_fenced(
    held: Held, what: str
) -> None:
    first = held.claim()[1]
    held.redis.delete(held.keys.shard_lease(0))
    second = held.claim()[1]
    assert second > first
    before = held.whole()
    for epoch in (first, 9):
        if what == "renew":
            assert held.renew(epoch) == [b"fenced"]
        else:
            assert held.write(epoch, records={0: b"{}"}, event=EVENT, left=-1) == [b"fenced"]
    assert held.whole() == before
    assert held.renew(second) == [b"ok", b""]
    assert held.write(second, event=EVENT)[0] == b"ok"


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_no_shard_of_an_ended_job_is_renewed(held: Held, state: str) -> None:
    epoch = held.claim()[1]
    held.redis.hset(held.keys.meta, "state", state)
    before = held.whole()
    assert held.renew(epoch) == [b"fenced"]
    assert held.whole() == before
