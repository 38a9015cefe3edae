"""The live set: every request that has not ended, and when the reaper checks it next.

Times are Redis's own: read before and after a call, they frame what the call has written.
"""

from collections.abc import Callable
from typing import Any

import pytest

from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
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
def keys(connection: Any) -> RequestKeys:
    """The keys of a request that was submitted."""
    keys = Keys(PREFIX).request(new_id())
    assert submit(connection, keys) == 1
    return keys


def looks_in(
    connection: Any, keys: RequestKeys, call: Callable[[], object]
) -> Callable[[int], bool]:
    """Make a call. Returns whether the reaper checks the request this many ms after it."""
    before = clock(connection)
    call()
    after = clock(connection)
    score = connection.zscore(live(keys), keys.id)
    assert score is not None
    return lambda ms: before + ms <= score <= after + ms


def score(connection: Any, keys: RequestKeys) -> Any:
    return connection.zscore(live(keys), keys.id)


def test_a_new_request_is_checked_when_its_wake_up_should_have_arrived(
    connection: Any,
) -> None:
    keys = Keys(PREFIX).request(new_id())
    assert looks_in(connection, keys, lambda: submit(connection, keys, check_after_ms=7_000))(7_000)


def test_a_claimed_request_is_checked_when_its_lease_expires(
    connection: Any, keys: RequestKeys
) -> None:
    assert looks_in(connection, keys, lambda: claim(connection, keys, lease_ms=30_000))(30_000)


def test_a_renewed_lease_postpones_the_check(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys, lease_ms=2_000)
    assert looks_in(connection, keys, lambda: renew(connection, keys, lease_ms=40_000))(40_000)


def test_a_released_request_is_checked_some_time_after_it_is_due(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    framed = looks_in(
        connection, keys, lambda: release(connection, keys, due_ms=3_000, check_after_ms=5_000)
    )
    assert framed(8_000)
    assert score(connection, keys) == int(connection.hget(keys.meta, "wait_until_ms")) + 5_000


@pytest.mark.parametrize("final", ["done", "failed", "canceled"])
def test_a_request_that_has_ended_is_no_longer_checked(
    connection: Any, keys: RequestKeys, final: str
) -> None:
    claim(connection, keys)
    write(connection, keys, 2)
    assert score(connection, keys) is not None
    write(connection, keys, 3, final=final)
    assert score(connection, keys) is None


def test_a_write_does_not_change_the_live_set_before_the_end(
    connection: Any, keys: RequestKeys
) -> None:
    """Once for each delta would be too often; the lease is renewed by the clock."""
    claim(connection, keys)
    before = score(connection, keys)
    write(connection, keys, 2, 3, text="abc", a=1)
    assert score(connection, keys) == before


def test_a_canceled_request_without_a_lease_leaves_the_live_set(
    connection: Any, keys: RequestKeys
) -> None:
    cancel(connection, keys)
    assert score(connection, keys) is None


def test_a_canceled_request_with_a_lease_stays_in_the_live_set(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    before = score(connection, keys)
    cancel(connection, keys)
    assert score(connection, keys) == before


def test_a_worker_does_not_move_the_check_of_a_request_of_another(
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


def test_deployments_that_share_a_redis_have_separate_live_sets(
    connection: Any, keys: RequestKeys
) -> None:
    assert live(keys) == f"{PREFIX}:live"
    assert connection.zscore(Keys("another").live, keys.id) is None
