"""The submit, claim, renew and release scripts against their contracts."""

from typing import Any

import orjson
import pytest

from penstock.clock import now_ms
from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.store.scripts import script
from tests.contract.penstock.store.calls import (
    PREFIX,
    Listener,
    cancel,
    claim,
    clock,
    live,
    release,
    renew,
    submit,
    whole,
    write,
)


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a new request."""
    keys = Keys(PREFIX).request(new_id())
    assert submit(connection, keys) == 1
    return keys


# -- submit -----------------------------------------------------------------------------------


def test_a_submitted_request_is_complete_and_every_key_has_a_ttl(
    connection: Any, keys: RequestKeys
) -> None:
    meta, log, body, text, lease, _, ttls = whole(connection, keys)
    assert abs(int(meta.pop(b"created_ms")) - now_ms()) < 60_000
    assert meta == {
        b"state": b"queued",
        b"epoch": b"0",
        b"n": b"1",
        b"model": b"m",
        b"kind": b"stream",
    }
    assert log == [(b"0-1", {b"d": b'{"e":0,"n":1,"data":{}}'})]
    assert (body, text, lease) == (b"{}", None, None)
    assert all(0 < ttl <= 100 for ttl in ttls)


def test_submitting_twice_changes_nothing_and_publishes_nothing(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    claim(connection, keys)
    before = whole(connection, keys)
    assert submit(connection, keys, body='{"other":1}', check_after_ms=1) == 0
    assert listener.received() == []
    assert whole(connection, keys) == before


def test_the_first_event_is_published_to_earlier_subscribers(
    penstock_redis: EmbeddedRedis, connection: Any
) -> None:
    keys = Keys(PREFIX).request(new_id())
    listener = Listener(penstock_redis, keys)
    submit(connection, keys)
    assert listener.received() == [("events", b'{"e":0,"n":1,"data":{}}')]
    listener.close()


def test_a_record_without_a_body_has_no_body_key_and_no_reaper_entry(connection: Any) -> None:
    keys = Keys(PREFIX).request(new_id())
    names = [keys.meta, keys.log, keys.events]
    script("submit")(connection, names, [50, "{}", "", "", "a", "b"])
    assert connection.hget(keys.meta, "a") == b"b"
    assert not connection.exists(keys.request)
    assert connection.zscore(live(keys), keys.id) is None


# -- claim ------------------------------------------------------------------------------------


def test_a_claim_raises_the_epoch_takes_the_lease_and_records_the_time(
    connection: Any, keys: RequestKeys
) -> None:
    before = clock(connection)
    assert claim(connection, keys, "w1") == [b"claimed", 1, 1, b"", 0]
    after = clock(connection)
    assert connection.get(keys.lease) == b"w1:1"
    assert 0 < connection.pttl(keys.lease) <= 60_000
    meta = connection.hgetall(keys.meta)
    assert (meta[b"state"], meta[b"epoch"], meta[b"worker"]) == (b"running", b"1", b"w1")
    assert before <= int(meta[b"started_ms"]) <= after  # by Redis's clock


def test_a_leased_request_cannot_be_claimed_even_by_its_holder(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys, "w1")
    before = whole(connection, keys)
    for worker in ("w1", "w2"):
        assert claim(connection, keys, worker) == [b"leased", b"w1:1"]
    assert whole(connection, keys) == before


def test_an_expired_lease_is_taken_over_with_a_higher_epoch(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys, "w1")
    connection.hset(keys.meta, mapping={"n": 57, "started_ms": 12345})
    connection.delete(keys.lease)  # as if it had expired
    cancel(connection, keys, "alice")
    assert claim(connection, keys, "w2") == [b"claimed", 2, 57, b"alice", 1]
    assert connection.get(keys.lease) == b"w2:2"
    assert connection.hmget(keys.meta, "worker", "started_ms") == [b"w2", b"12345"]


def test_only_claims_that_ended_without_a_release_count_as_worker_losses(
    connection: Any, keys: RequestKeys
) -> None:
    worker_losses = []
    for epoch, gives_back in enumerate((True, False, True, False, False), start=1):
        worker_losses.append(claim(connection, keys, f"w{epoch}")[4])
        if gives_back:
            release(connection, keys, epoch, f"w{epoch}")
        else:
            connection.delete(keys.lease)
    assert worker_losses == [0, 0, 1, 1, 2]
    assert claim(connection, keys)[1:] == [6, 1, b"", 3]
    assert connection.hget(keys.meta, "worker_losses") == b"3"


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_a_request_that_has_ended_is_neither_claimed_nor_reaped(
    connection: Any, keys: RequestKeys, state: str
) -> None:
    connection.hset(keys.meta, "state", state)
    before = whole(connection, keys)
    assert claim(connection, keys) == [b"ended", state.encode()]
    before[5] = None  # its place in the live set
    assert whole(connection, keys) == before


def test_no_script_creates_a_record_that_does_not_exist(connection: Any) -> None:
    keys = Keys(PREFIX).request(new_id())
    connection.zadd(live(keys), {keys.id: 1})  # left by a request that expired
    assert claim(connection, keys) == [b"gone"]
    assert connection.zscore(live(keys), keys.id) is None
    assert renew(connection, keys)[:2] == [b"ok", b""]  # the next write reports that it is gone
    assert write(connection, keys, 2) == [b"gone"]
    assert release(connection, keys) == 0
    assert cancel(connection, keys) == b""
    assert not list(connection.scan_iter(f"*{keys.id}*"))
    assert connection.zscore(live(keys), keys.id) is None


def test_a_script_runs_even_if_redis_has_forgotten_it(connection: Any, keys: RequestKeys) -> None:
    connection.script_flush()
    assert claim(connection, keys)[0] == b"claimed"
    assert connection.script_exists(script("claim").sha) == [True]


# -- renew ------------------------------------------------------------------------------------


def test_a_renewed_lease_publishes_a_heartbeat_with_the_last_number(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    claim(connection, keys)
    connection.hset(keys.meta, "n", 58)
    connection.pexpire(keys.lease, 2_000)
    assert renew(connection, keys)[:2] == [b"ok", b""]
    ((channel, beat),) = listener.received()
    assert channel == "events"
    assert orjson.loads(beat) == {"e": 1, "n": 58, "data": {"type": "penstock.heartbeat"}}
    assert connection.pttl(keys.lease) > 50_000
    assert connection.xlen(keys.log) == 1  # heartbeats are not logged


def test_an_expired_lease_is_renewed_if_no_other_worker_has_claimed(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    connection.delete(keys.lease)
    assert renew(connection, keys)[:2] == [b"ok", b""]
    assert connection.get(keys.lease) == b"w:1"


def test_a_renewal_reports_a_cancel(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    cancel(connection, keys, "alice")
    assert renew(connection, keys)[:2] == [b"ok", b"alice"]


def test_every_ttl_is_renewed_once_half_of_it_has_passed(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    write(connection, keys, 2, text="a", ttl=1_000)
    names = (keys.meta, keys.log, keys.text, keys.request)
    renew(connection, keys, ttl=1_500)  # more than half is left
    assert all(0 < connection.ttl(name) <= 1_000 for name in names)
    renew(connection, keys, ttl=3_000)
    assert all(2_900 < connection.ttl(name) <= 3_000 for name in names)


def test_a_renewal_creates_no_key(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    connection.delete(keys.request)
    renew(connection, keys, ttl=3_000)
    assert not connection.exists(keys.request, keys.text)


@pytest.mark.parametrize("state", ["queued", "done", "failed", "canceled"])
def test_a_lease_is_not_renewed_after_the_end(
    connection: Any, keys: RequestKeys, listener: Listener, state: str
) -> None:
    claim(connection, keys)
    connection.delete(keys.lease)
    connection.hset(keys.meta, "state", state)
    before = whole(connection, keys)
    assert renew(connection, keys, ttl=3_000) == [b"fenced"]
    assert whole(connection, keys) == before
    assert listener.received() == []


def test_a_renewal_leaves_a_claim_that_redis_lost_to_the_next_write(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    """The worker is not stopped, and gets no lease for a claim that the record does not have."""
    before = whole(connection, keys)
    assert renew(connection, keys, epoch=1)[:2] == [b"ok", b""]
    assert whole(connection, keys) == before
    assert listener.received() == []


def test_a_fenced_worker_neither_renews_nor_releases_the_claim_of_another(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys, "w1")
    connection.delete(keys.lease)
    claim(connection, keys, "w2")
    before = whole(connection, keys)
    assert renew(connection, keys, 1, "w1", ttl=3_000) == [b"fenced"]
    assert release(connection, keys, 1, "w1") == 0
    assert whole(connection, keys) == before


def test_a_worker_with_the_epoch_of_another_neither_renews_nor_releases(
    connection: Any, keys: RequestKeys
) -> None:
    """Redis lost the first claim, and a claim of an earlier version got the same epoch."""
    claim(connection, keys, "w1")
    before = whole(connection, keys)
    assert renew(connection, keys, 1, "w2", ttl=3_000) == [b"fenced"]
    assert release(connection, keys, 1, "w2") == 0
    assert whole(connection, keys) == before


# -- release ----------------------------------------------------------------------------------


def test_a_released_request_is_queued_and_has_no_lease(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys, "w1")
    assert release(connection, keys, 1, "w1") == 1
    assert connection.hget(keys.meta, "state") == b"queued"
    assert not connection.exists(keys.lease)
    assert claim(connection, keys, "w2")[:2] == [b"claimed", 2]


def test_a_released_request_has_its_due_time_until_it_is_claimed(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    before = clock(connection)
    release(connection, keys, due_ms=30_000)
    after = clock(connection)
    assert before + 30_000 <= int(connection.hget(keys.meta, "wait_until_ms")) <= after + 30_000
    claim(connection, keys)
    assert not connection.hexists(keys.meta, "wait_until_ms")


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_a_release_does_not_change_a_final_state(
    connection: Any, keys: RequestKeys, state: str
) -> None:
    claim(connection, keys)
    connection.hset(keys.meta, "state", state)
    connection.zrem(live(keys), keys.id)
    assert release(connection, keys, due_ms=30_000) == 1
    assert connection.hmget(keys.meta, "state", "wait_until_ms") == [state.encode(), None]
    assert connection.zscore(live(keys), keys.id) is None


def test_a_release_whose_reply_was_lost_can_be_repeated(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    assert release(connection, keys) == 1
    before = whole(connection, keys)
    assert release(connection, keys) == 1
    assert whole(connection, keys) == before
    claim(connection, keys, "w2")
    assert release(connection, keys) == 0
    assert connection.get(keys.lease) == b"w2:2"
