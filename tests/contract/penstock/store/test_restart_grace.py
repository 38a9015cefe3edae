"""After a restart of Redis nothing is claimed until every worker could renew its claims."""

from pathlib import Path
from typing import Any

import pytest
import redis

from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.testing import wait_until
from tests.contract.penstock.store.calls import claim, clock, renew, run, submit, whole, write

LEASE_MS = 60_000


@pytest.fixture
def deployment() -> Keys:
    """A prefix of its own, under which nothing was claimed."""
    return Keys(f"restart-grace-{new_id()[-8:]}")


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
        assert kind == b"restarted"
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
    assert claim(connection, keys, "w2")[0] == b"restarted"
    assert renew(connection, keys)[0] == b"ok"
    assert write(connection, keys, 2)[0] == b"ok"
    assert claim(connection, keys, "w2") == [b"leased", b"w:1"]


def test_a_claim_that_was_not_renewed_is_claimed_after_one_lease(
    connection: Any, deployment: Keys
) -> None:
    keys = request(connection, deployment)
    claim(connection, keys)
    restart(connection, deployment)
    connection.delete(keys.lease)
    assert claim(connection, keys, "w2", 300)[0] == b"restarted"
    wait_until(lambda: claim(connection, keys, "w2", 300)[0] != b"restarted")
    assert connection.hmget(keys.meta, "worker", "epoch", "worker_losses") == [b"w2", b"2", b"1"]


def test_a_real_restart_of_redis_is_noticed(deployment: Keys, tmp_path: Path) -> None:
    with EmbeddedRedis(folder=tmp_path) as first:
        with redis.Redis.from_url(first.url) as connection:
            keys = request(connection, deployment)
            claim(connection, request(connection, deployment))
            connection.shutdown()
        again = EmbeddedRedis(folder=tmp_path)
        with again as second, redis.Redis.from_url(second.url) as connection:
            assert claim(connection, keys)[0] == b"restarted"
