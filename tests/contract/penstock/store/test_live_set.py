"""The live set: every request that has not ended, and when the reaper looks at it next.

Times are Redis's own: read before and after a call, they frame what the call has written.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from tests.contract.penstock.store.calls import (
    PREFIX,
    cancel,
    claim,
    clock,
    live,
    release,
    renew,
    submit,
    write,
)


@pytest.fixture
def connection(penstock_redis: EmbeddedRedis) -> Iterator[Any]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield connection


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a request that was submitted."""
    keys = Keys(PREFIX).request(new_id())
    assert submit(connection, keys) == 1
    return keys


def looks_in(
    connection: Any, keys: RequestKeys, call: Callable[[], object]
) -> Callable[[int], bool]:
    """Make a call; says whether the reaper looks so many ms after it."""
    before = clock(connection)
    call()
    after = clock(connection)
    score = connection.zscore(live(keys), keys.id)
    assert score is not None
    return lambda ms: before + ms <= score <= after + ms


def score(connection: Any, keys: RequestKeys) -> Any:
    return connection.zscore(live(keys), keys.id)


def test_a_fresh_request_is_looked_at_when_its_wake_up_should_have_arrived(
    connection: Any,
) -> None:
    keys = Keys(PREFIX).request(new_id())
    assert looks_in(connection, keys, lambda: submit(connection, keys, look_ms=7_000))(7_000)


def test_a_claimed_request_is_looked_at_when_its_lease_runs_out(
    connection: Any, keys: RequestKeys
) -> None:
    assert looks_in(connection, keys, lambda: claim(connection, keys, lease_ms=30_000))(30_000)


def test_a_renewed_lease_puts_the_look_off(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys, lease_ms=2_000)
    assert looks_in(connection, keys, lambda: renew(connection, keys, lease_ms=40_000))(40_000)


def test_a_released_request_is_looked_at_some_time_after_it_is_due(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    framed = looks_in(
        connection, keys, lambda: release(connection, keys, due_ms=3_000, patience_ms=5_000)
    )
    assert framed(8_000)
    assert score(connection, keys) == int(connection.hget(keys.meta, "due_ms")) + 5_000


@pytest.mark.parametrize("final", ["done", "failed", "canceled"])
def test_an_ended_request_is_not_looked_at_any_more(
    connection: Any, keys: RequestKeys, final: str
) -> None:
    claim(connection, keys)
    write(connection, keys, 2)
    assert score(connection, keys) is not None
    write(connection, keys, 3, final=final)
    assert score(connection, keys) is None


def test_writing_does_not_touch_the_live_set_before_the_end(
    connection: Any, keys: RequestKeys
) -> None:
    """Once per delta would be often; the lease is renewed by the clock."""
    claim(connection, keys)
    before = score(connection, keys)
    write(connection, keys, 2, 3, text="abc", a=1)
    assert score(connection, keys) == before


def test_a_canceled_request_leaves_the_live_set_if_nobody_holds_it(
    connection: Any, keys: RequestKeys
) -> None:
    cancel(connection, keys)
    assert score(connection, keys) is None


def test_a_canceled_request_stays_if_somebody_holds_it(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    before = score(connection, keys)
    cancel(connection, keys)
    assert score(connection, keys) == before


def test_nobody_moves_the_look_at_a_request_of_somebody_else(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys, "w1")
    connection.delete(keys.lease)
    claim(connection, keys, "w2")
    before = score(connection, keys)
    renew(connection, keys, 1, "w1", lease_ms=90_000)
    release(connection, keys, 1, "w1", due_ms=90_000)
    write(connection, keys, 2, worker="w1", final="done")
    claim(connection, keys, "w3", lease_ms=90_000)
    assert score(connection, keys) == before


def test_deployments_that_share_a_redis_have_live_sets_of_their_own(
    connection: Any, keys: RequestKeys
) -> None:
    assert live(keys) == f"{PREFIX}:live"
    assert connection.zscore(Keys("another").live, keys.id) is None
