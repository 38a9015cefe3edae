"""A queued request that waits: its record says for what, lives longer than the wait, and ends on
time if it has a deadline."""

from typing import Any

import orjson
import pytest

from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.store import request_scripts
from penstock.store.request_scripts import ReaperAction, UnclaimedEnd
from tests.contract.penstock.store.calls import (
    PREFIX,
    RETENTION_S,
    Listener,
    cancel,
    claim,
    clock,
    live,
    release,
    submit,
    whole,
)

DEADLINE_END = b'{"type":"penstock.end","state":"failed","error":{"type":"deadline_exceeded"}}'
END_AFTER_LOSS = b'{"type":"penstock.end","state":"failed","error":{"type":"after_loss"}}'


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a request that was submitted."""
    keys = Keys(PREFIX).request(new_id())
    assert submit(connection, keys) == 1
    return keys


def reap(connection: Any, keys: RequestKeys, *, may_be_queued: bool = True) -> ReaperAction:
    return request_scripts.reap(
        keys,
        Keys(keys.prefix),
        check_after_ms=60_000,
        may_be_queued=may_be_queued,
        deadline=UnclaimedEnd(DEADLINE_END, b'{"type":"deadline_exceeded"}'),
        deadline_after_loss=UnclaimedEnd(END_AFTER_LOSS, b'{"type":"after_loss"}'),
        lease_ms=60_000,
        retention_s=RETENTION_S,
    ).run(connection)


def set_deadline(connection: Any, keys: RequestKeys, in_ms: int) -> int:
    deadline_ms = clock(connection) + in_ms
    connection.hset(keys.meta, "deadline_ms", deadline_ms)
    return deadline_ms


def check_ms(connection: Any, keys: RequestKeys) -> int:
    return int(connection.zscore(live(keys), keys.id))


def test_a_release_records_what_the_request_waits_for_until_the_next_claim(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    earliest = clock(connection)
    release(connection, keys, due_ms=30_000, waits_for="the rate limit")
    waits_for, until_ms = connection.hmget(keys.meta, "waits_for", "wait_until_ms")
    assert waits_for == b"the rate limit"
    assert earliest + 30_000 <= int(until_ms) <= clock(connection) + 30_000
    claim(connection, keys)
    assert connection.hmget(keys.meta, "waits_for", "wait_until_ms") == [None, None]


def test_a_release_without_a_wait_records_no_reason(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    release(connection, keys)
    assert not connection.hexists(keys.meta, "waits_for")


def test_a_canceled_request_waits_for_nothing(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    release(connection, keys, due_ms=30_000, waits_for="the rate limit")
    cancel(connection, keys)
    assert connection.hmget(keys.meta, "waits_for", "wait_until_ms") == [None, None]


@pytest.mark.parametrize(("due_ms", "least"), [(0, 170), (500, 171), (900_000, 1070)])
def test_a_record_and_its_keys_live_longer_than_the_request_waits(
    connection: Any, keys: RequestKeys, due_ms: int, least: int
) -> None:
    claim(connection, keys)
    connection.set(keys.text, "so far", ex=10)
    release(connection, keys, due_ms=due_ms, ttl=170)
    lives = [connection.ttl(key) for key in (keys.meta, keys.log, keys.text, keys.request)]
    assert all(least - 5 < life <= least for life in lives), lives


def test_the_reaper_checks_a_request_just_after_its_deadline(
    connection: Any, keys: RequestKeys
) -> None:
    deadline_ms = set_deadline(connection, keys, 20_000)
    assert reap(connection, keys) is ReaperAction.WAIT
    assert check_ms(connection, keys) == deadline_ms + 1_000
    assert reap(connection, keys, may_be_queued=False) is ReaperAction.WAKE
    assert check_ms(connection, keys) == deadline_ms + 1_000
    claim(connection, keys)
    release(connection, keys, due_ms=90_000)
    assert check_ms(connection, keys) == deadline_ms + 1_000


def test_a_deadline_that_is_later_than_the_next_check_changes_nothing(
    connection: Any, keys: RequestKeys
) -> None:
    set_deadline(connection, keys, 900_000)
    reap(connection, keys)
    assert check_ms(connection, keys) <= clock(connection) + 60_000


@pytest.mark.parametrize("may_be_queued", [True, False])
@pytest.mark.parametrize("deferred", [True, False])
def test_the_reaper_ends_a_queued_request_whose_deadline_has_passed(
    connection: Any,
    keys: RequestKeys,
    listener: Listener,
    may_be_queued: bool,
    deferred: bool,
) -> None:
    if deferred:
        claim(connection, keys)
        release(connection, keys, due_ms=90_000, waits_for="the rate limit")
    set_deadline(connection, keys, -1)
    assert reap(connection, keys, may_be_queued=may_be_queued) is ReaperAction.GONE
    epoch = int(connection.hget(keys.meta, "epoch"))
    assert epoch > int(deferred)
    event = b'{"e":%d,"n":2,"data":%s}' % (epoch, DEADLINE_END)
    assert listener.received() == [("events", event)]
    record = connection.hgetall(keys.meta)
    assert (record[b"state"], record[b"n"]) == (b"failed", b"2")
    assert orjson.loads(record[b"error"]) == {"type": "deadline_exceeded"}
    assert 0 <= clock(connection) - int(record[b"ended_ms"]) < 60_000
    assert b"waits_for" not in record
    assert connection.xrevrange(keys.log, count=1) == [(b"%d-2" % epoch, {b"d": event})]
    assert connection.zscore(live(keys), keys.id) is None
    assert all(0 < connection.ttl(key) <= RETENTION_S for key in (keys.meta, keys.request))
    assert claim(connection, keys) == [b"ended", b"failed"]


def test_a_deadline_ends_no_request_that_a_worker_holds_or_has_called(
    connection: Any, keys: RequestKeys
) -> None:
    set_deadline(connection, keys, -1)
    claim(connection, keys)
    before = whole(connection, keys)[:5]
    assert reap(connection, keys) is ReaperAction.WAIT
    assert whole(connection, keys)[:5] == before
    release(connection, keys)
    connection.hset(keys.meta, "attempts", 1)
    assert reap(connection, keys, may_be_queued=False) is ReaperAction.WAKE
    assert connection.hget(keys.meta, "state") == b"queued"
    assert len(connection.xrange(keys.log)) == 1
