"""submit, claim, renew, release and cancel against what their headers promise."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import redis

from penstock.embedded import EmbeddedRedis
from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.scripts import script

HEARTBEAT = b'{"e":1,"n":%n,"data":{"type":"penstock.heartbeat"}}'


@pytest.fixture
def connection(penstock_redis: EmbeddedRedis) -> Iterator[Any]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield connection


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a fresh request that was submitted."""
    keys = Keys("contract").request(new_id())
    assert submit(connection, keys) == 1
    return keys


def submit(connection: Any, keys: RequestKeys, *, ttl: int = 100, body: str = "{}") -> Any:
    return script("submit")(
        connection,
        [keys.meta, keys.log, keys.events, keys.request],
        [ttl, '{"e":0,"n":1,"data":{}}', body, "model", "m", "kind", "stream"],
    )


def claim(connection: Any, keys: RequestKeys, worker: str = "w", lease_ms: int = 60_000) -> Any:
    return script("claim")(connection, [keys.meta, keys.lease], [worker, lease_ms, 12345])


def renew(
    connection: Any, keys: RequestKeys, epoch: int, worker: str = "w", beat: bytes = b""
) -> Any:
    names = [keys.meta, keys.lease, keys.events]
    return script("renew")(connection, names, [worker, epoch, 60_000, beat])


def release(connection: Any, keys: RequestKeys, epoch: int, worker: str = "w") -> Any:
    return script("release")(connection, [keys.meta, keys.lease], [worker, epoch])


def cancel(connection: Any, keys: RequestKeys, who: str = "me") -> Any:
    return script("cancel")(connection, [keys.meta], [who])


def whole(connection: Any, keys: RequestKeys) -> list[Any]:
    """All that Redis holds of the request, to see that nothing was changed."""
    return [
        connection.hgetall(keys.meta),
        connection.xrange(keys.log),
        connection.get(keys.request),
        connection.get(keys.lease),
        [connection.ttl(k) for k in (keys.meta, keys.log, keys.request)],
    ]


def test_a_submitted_request_is_whole_and_every_key_has_a_lifetime(
    connection: Any, keys: RequestKeys
) -> None:
    meta, log, body, lease, ttls = whole(connection, keys)
    assert meta == {
        b"state": b"queued",
        b"epoch": b"0",
        b"n": b"1",
        b"model": b"m",
        b"kind": b"stream",
    }
    assert log == [(b"0-1", {b"d": b'{"e":0,"n":1,"data":{}}'})]
    assert (body, lease) == (b"{}", None)
    assert all(0 < ttl <= 100 for ttl in ttls)


def test_submitting_twice_changes_nothing_and_publishes_nothing(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    before = whole(connection, keys)
    with connection.pubsub() as channel:
        channel.subscribe(keys.events)
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        assert submit(connection, keys, body='{"other":1}') == 0
        connection.publish(keys.events, b"marker")
        assert channel.get_message(timeout=5)["data"] == b"marker"
    assert whole(connection, keys) == before


def test_the_first_event_is_published_to_who_subscribed_before(connection: Any) -> None:
    keys = Keys("contract").request(new_id())
    with connection.pubsub() as channel:
        channel.subscribe(keys.events)
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        submit(connection, keys)
        assert channel.get_message(timeout=5)["data"] == b'{"e":0,"n":1,"data":{}}'


def test_a_record_without_a_body_has_no_body_key(connection: Any) -> None:
    keys = Keys("contract").request(new_id())
    script("submit")(connection, [keys.meta, keys.log, keys.events], [50, "{}", "", "a", "b"])
    assert not connection.exists(keys.request)
    assert connection.exists(keys.meta)


def test_a_claim_raises_the_epoch_takes_the_lease_and_notes_when(
    connection: Any, keys: RequestKeys
) -> None:
    assert claim(connection, keys, "w1") == [b"claimed", 1, 1, b""]
    assert connection.get(keys.lease) == b"w1:1"
    assert 0 < connection.pttl(keys.lease) <= 60_000
    meta = connection.hgetall(keys.meta)
    assert (meta[b"state"], meta[b"epoch"], meta[b"worker"]) == (b"running", b"1", b"w1")
    assert meta[b"started_ms"] == b"12345"


def test_what_is_leased_cannot_be_claimed_not_even_by_its_holder(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys, "w1")
    before = whole(connection, keys)
    for worker in ("w1", "w2"):
        assert claim(connection, keys, worker) == [b"leased", b"w1:1"]
    assert whole(connection, keys) == before


def test_a_dead_lease_is_taken_over_with_a_higher_epoch(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys, "w1")
    connection.hset(keys.meta, "n", 57)
    connection.delete(keys.lease)  # as if it had run out
    cancel(connection, keys, "somebody")
    assert claim(connection, keys, "w2") == [b"claimed", 2, 57, b"somebody"]
    assert connection.get(keys.lease) == b"w2:2"
    assert connection.hget(keys.meta, "started_ms") == b"12345"


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_what_has_ended_is_not_claimed(connection: Any, keys: RequestKeys, state: str) -> None:
    connection.hset(keys.meta, "state", state)
    before = whole(connection, keys)
    assert claim(connection, keys) == [b"ended", state.encode()]
    assert whole(connection, keys) == before


def test_no_script_makes_a_record_that_is_not_there(connection: Any) -> None:
    keys = Keys("contract").request(new_id())
    assert claim(connection, keys) == [b"gone"]
    assert renew(connection, keys, 1, beat=HEARTBEAT) == [b"fenced"]
    assert release(connection, keys, 1) == 0
    assert cancel(connection, keys) == b""
    assert not list(connection.scan_iter(f"*{keys.id}*"))


def test_a_lease_is_renewed_and_the_heartbeat_tells_the_last_number(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    connection.hset(keys.meta, "n", 58)
    connection.pexpire(keys.lease, 2_000)
    with connection.pubsub() as channel:
        channel.subscribe(keys.events)
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        assert renew(connection, keys, 1, beat=HEARTBEAT) == [b"ok", b""]
        beat = orjson.loads(channel.get_message(timeout=5)["data"])
        assert beat == {"e": 1, "n": 58, "data": {"type": "penstock.heartbeat"}}
        assert renew(connection, keys, 1) == [b"ok", b""]  # without one
        connection.publish(keys.events, b"marker")
        assert channel.get_message(timeout=5)["data"] == b"marker"
    assert connection.pttl(keys.lease) > 50_000
    assert connection.xlen(keys.log) == 1  # heartbeats are not logged


def test_a_lease_that_ran_out_is_won_back_while_nobody_else_has_it(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    connection.delete(keys.lease)
    assert renew(connection, keys, 1) == [b"ok", b""]
    assert connection.get(keys.lease) == b"w:1"


def test_renewing_tells_of_a_wish_to_cancel(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    cancel(connection, keys, "alice")
    assert renew(connection, keys, 1) == [b"ok", b"alice"]


@pytest.mark.parametrize("state", ["queued", "done", "failed", "canceled"])
def test_a_lease_is_not_renewed_when_the_work_is_over(
    connection: Any, keys: RequestKeys, state: str
) -> None:
    claim(connection, keys)
    connection.delete(keys.lease)
    connection.hset(keys.meta, "state", state)
    assert renew(connection, keys, 1, beat=HEARTBEAT) == [b"fenced"]
    assert not connection.exists(keys.lease)


def test_a_zombie_neither_renews_nor_releases_what_somebody_else_claimed(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys, "w1")
    connection.delete(keys.lease)
    claim(connection, keys, "w2")
    before = whole(connection, keys)
    assert renew(connection, keys, 1, "w1", HEARTBEAT) == [b"fenced"]
    assert release(connection, keys, 1, "w1") == 0
    assert whole(connection, keys) == before


def test_a_released_request_is_queued_again_and_free(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys, "w1")
    assert release(connection, keys, 1, "w1") == 1
    assert connection.hget(keys.meta, "state") == b"queued"
    assert not connection.exists(keys.lease)
    assert claim(connection, keys, "w2")[:2] == [b"claimed", 2]


def test_releasing_leaves_another_workers_lease_and_an_ended_state_alone(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys, "w1")
    connection.set(keys.lease, "w2:1", px=60_000)
    connection.hset(keys.meta, "state", "done")
    assert release(connection, keys, 1, "w1") == 1
    assert connection.get(keys.lease) == b"w2:1"
    assert connection.hget(keys.meta, "state") == b"done"


def test_the_first_wish_to_cancel_counts(connection: Any, keys: RequestKeys) -> None:
    assert cancel(connection, keys, "alice") == b"queued"
    assert cancel(connection, keys, "bob") == b"queued"
    assert connection.hget(keys.meta, "cancel") == b"alice"
    assert claim(connection, keys)[3] == b"alice"


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_what_has_ended_is_not_marked_as_canceled(
    connection: Any, keys: RequestKeys, state: str
) -> None:
    connection.hset(keys.meta, "state", state)
    assert cancel(connection, keys) == state.encode()
    assert not connection.hexists(keys.meta, "cancel")


def test_a_script_runs_also_where_redis_has_forgotten_it(
    connection: Any, keys: RequestKeys
) -> None:
    connection.script_flush()
    assert claim(connection, keys)[0] == b"claimed"
    assert connection.script_exists(script("claim").sha) == [True]
