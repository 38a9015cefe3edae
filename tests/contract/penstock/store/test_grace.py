"""After an interruption of Redis no work is taken until every worker could renew its claims."""

from pathlib import Path
from typing import Any

import pytest
import redis

from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.store import reaper_scripts
from penstock.testing import wait_until
from tests.contract.penstock.store.calls import claim, clock, renew, run, submit, whole, write

LEASE_MS = 60_000


@pytest.fixture
def deployment() -> Keys:
    """A prefix of its own, under which nothing was claimed."""
    return Keys(f"grace-{new_id()[-8:]}")


def request(connection: Any, deployment: Keys) -> RequestKeys:
    keys = deployment.request(new_id())
    assert submit(connection, keys) == 1
    return keys


def restart(connection: Any, deployment: Keys) -> None:
    """Store another Redis process as the last one seen, as before a restart."""
    connection.hset(deployment.run, "id", "the-one-before")


def test_without_any_earlier_claim_there_is_no_restart_grace(
    connection: Any, deployment: Keys
) -> None:
    keys = request(connection, deployment)
    assert claim(connection, keys)[0] == b"claimed"
    assert connection.hgetall(run(keys)) == {
        b"id": connection.info("server")["run_id"].encode(),
        b"since_ms": b"0",
    }


def test_during_the_restart_grace_nothing_is_claimed_and_nothing_changes(
    connection: Any, deployment: Keys
) -> None:
    old, new = request(connection, deployment), request(connection, deployment)
    claim(connection, old)
    restart(connection, deployment)
    connection.delete(old.lease)
    for keys in (old, new):
        before = whole(connection, keys)
        kind, wait_ms = claim(connection, keys, "w2")
        assert kind == b"grace"
        assert 0 < wait_ms <= LEASE_MS
        assert whole(connection, keys) == before


def test_the_restart_grace_is_counted_once_from_the_first_claim(
    connection: Any, deployment: Keys
) -> None:
    keys = request(connection, deployment)
    claim(connection, request(connection, deployment))
    restart(connection, deployment)
    claim(connection, keys)
    since = connection.hget(run(keys), "since_ms")
    assert clock(connection) - LEASE_MS < int(since) <= clock(connection)
    claim(connection, keys)
    assert connection.hget(run(keys), "since_ms") == since


def test_a_holder_renews_its_claim_during_the_restart_grace(
    connection: Any, deployment: Keys
) -> None:
    keys = request(connection, deployment)
    claim(connection, keys)
    restart(connection, deployment)
    connection.delete(keys.lease)
    assert claim(connection, keys, "w2")[0] == b"grace"
    assert renew(connection, keys)[0] == b"ok"
    assert write(connection, keys, 2)[0] == b"ok"
    assert claim(connection, keys, "w2") == [b"leased", b"w:1"]


def test_a_claim_not_renewed_is_claimed_after_one_lease_and_is_no_loss(
    connection: Any, deployment: Keys
) -> None:
    keys = request(connection, deployment)
    claim(connection, keys)
    restart(connection, deployment)
    connection.delete(keys.lease)
    assert claim(connection, keys, "w2", 300)[0] == b"grace"
    wait_until(lambda: claim(connection, keys, "w2", 300)[0] != b"grace")
    assert connection.hmget(keys.meta, "worker", "epoch", "worker_losses") == [b"w2", b"2", None]


def tick(connection: Any, deployment: Keys, *, refused: bool = False) -> None:
    """What every worker does twice a second."""
    call = reaper_scripts.tick(deployment, worker="t", lease_ms=LEASE_MS, refused=refused)
    call.run(connection)


def lost(connection: Any, keys: RequestKeys) -> None:
    """Let the lease expire."""
    connection.delete(keys.lease)


def stalled(connection: Any, deployment: Keys, ms: int = LEASE_MS) -> None:
    """Let the last write of any worker be some time ago, as after a stall of Redis."""
    connection.hset(deployment.run, "beat_ms", clock(connection) - ms)


def claimed_while_workers_live(connection: Any, deployment: Keys, keys: RequestKeys) -> bool:
    """Tick, and claim the request with a short lease; whether another worker has it now."""
    tick(connection, deployment)
    return claim(connection, keys, "w2", 100)[0] in (b"claimed", b"leased")


def held_and_new(connection: Any, deployment: Keys) -> tuple[RequestKeys, RequestKeys]:
    """A request whose lease has expired and one that was never claimed, with live workers."""
    old, new = request(connection, deployment), request(connection, deployment)
    claim(connection, old)
    tick(connection, deployment)
    lost(connection, old)
    return old, new


def test_after_a_stall_no_request_is_taken_from_a_worker_and_new_ones_are_claimed(
    connection: Any, deployment: Keys
) -> None:
    old, new = held_and_new(connection, deployment)
    stalled(connection, deployment)
    before = whole(connection, old)
    kind, wait_ms = claim(connection, old, "w2", LEASE_MS)
    assert kind == b"grace"
    assert 0 < wait_ms <= LEASE_MS
    assert whole(connection, old) == before
    assert claim(connection, new, "w2", LEASE_MS)[0] == b"claimed"


def test_the_first_tick_after_a_stall_does_not_hide_it(connection: Any, deployment: Keys) -> None:
    old, _ = held_and_new(connection, deployment)
    stalled(connection, deployment)
    tick(connection, deployment)
    tick(connection, deployment)
    assert claim(connection, old, "w2", LEASE_MS)[0] == b"grace"
    assert renew(connection, old)[0] == b"ok"
    assert claim(connection, old, "w2", LEASE_MS) == [b"leased", b"w:1"]


@pytest.mark.parametrize("beat_ms", ["", "x", "0", "1e999", "nan", b"\xff", "99999999999999999999"])
def test_a_beat_that_is_no_time_counts_as_a_stall(
    connection: Any, deployment: Keys, beat_ms: str | bytes
) -> None:
    old, _ = held_and_new(connection, deployment)
    connection.hset(deployment.run, "beat_ms", beat_ms)
    assert claim(connection, old, "w2", LEASE_MS)[0] == b"grace"


@pytest.mark.parametrize("field", ["since_ms", "stall_ms"])
@pytest.mark.parametrize("value", ["x", "", "9" * 25, "inf"])
def test_a_time_in_the_future_delays_no_claim_for_longer_than_a_lease(
    connection: Any, deployment: Keys, field: str, value: str
) -> None:
    old, _ = held_and_new(connection, deployment)
    connection.hset(deployment.run, field, value)
    kind, *rest = claim(connection, old, "w2", LEASE_MS)
    assert kind == b"claimed" or rest[0] <= LEASE_MS
    wait_until(lambda: claimed_while_workers_live(connection, deployment, old))


def test_a_key_of_another_type_in_place_of_the_run_stops_no_claim(
    connection: Any, deployment: Keys
) -> None:
    connection.set(deployment.run, "x", ex=100)
    connection.set(deployment.live, "x", ex=100)
    assert claim(connection, request(connection, deployment))[0] == b"claimed"
    assert connection.type(deployment.run) == b"hash"
    assert connection.type(deployment.live) == b"zset"


def test_a_tick_that_was_refused_begins_the_grace(connection: Any, deployment: Keys) -> None:
    old, _ = held_and_new(connection, deployment)
    tick(connection, deployment, refused=True)
    assert claim(connection, old, "w2", LEASE_MS)[0] == b"grace"


def test_a_full_redis_refuses_the_tick_and_changes_nothing(tmp_path: Path) -> None:
    keys = Keys("full")
    with (
        EmbeddedRedis(folder=tmp_path) as server,
        redis.Redis.from_url(server.url) as connection,
    ):
        old, _ = held_and_new(connection, keys)
        connection.set(keys.reaper, "another", px=100_000)
        before = connection.hgetall(keys.run)
        connection.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            tick(connection, keys)
        with pytest.raises(redis.OutOfMemoryError):
            claim(connection, old, "w2", LEASE_MS)
        connection.config_set("maxmemory", 0)
        assert connection.hgetall(keys.run) == before


def test_a_worker_that_died_while_redis_took_writes_is_a_worker_loss(
    connection: Any, deployment: Keys
) -> None:
    old, _ = held_and_new(connection, deployment)
    assert claim(connection, old, "w2", LEASE_MS) == [b"claimed", 2, 1, b"", 1]


@pytest.mark.parametrize("renewed", [False, True])
def test_only_a_worker_that_renewed_after_the_stall_counts_as_lost(
    connection: Any, deployment: Keys, renewed: bool
) -> None:
    old, _ = held_and_new(connection, deployment)
    stalled(connection, deployment)
    tick(connection, deployment)
    if renewed:
        wait_until(lambda: clock(connection) > int(connection.hget(deployment.run, "stall_ms")))
        renew(connection, old)
        lost(connection, old)
    wait_until(lambda: claimed_while_workers_live(connection, deployment, old))
    losses = connection.hget(old.meta, "worker_losses")
    assert losses == (b"1" if renewed else None)


@pytest.mark.parametrize("junk", ["list", "endless", "years"])
def test_a_key_that_is_no_lease_of_a_worker_holds_no_request(
    connection: Any, deployment: Keys, junk: str
) -> None:
    keys = request(connection, deployment)
    if junk == "list":
        connection.rpush(keys.lease, "x")
        connection.expire(keys.lease, 1_000)
    else:
        connection.set(keys.lease, "x", **({"ex": 10**8} if junk == "years" else {}))
    assert claim(connection, keys)[0] == b"claimed"
    assert connection.get(keys.lease) == b"w:1"


def test_a_real_restart_of_redis_is_noticed(deployment: Keys, tmp_path: Path) -> None:
    with EmbeddedRedis(folder=tmp_path) as first:
        with redis.Redis.from_url(first.url) as connection:
            keys = request(connection, deployment)
            claim(connection, request(connection, deployment))
            connection.shutdown()
        again = EmbeddedRedis(folder=tmp_path)
        with again as second, redis.Redis.from_url(second.url) as connection:
            assert claim(connection, keys)[0] == b"grace"
