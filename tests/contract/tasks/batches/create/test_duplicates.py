"""Late batches of abandoned calls, and unknown batches: adopted, canceled, or an alert."""

from typing import Any

import pytest

from penstock.testing import wait_until
from tasks.batches.create import size_locks
from tasks.batches.step_result import Next, Parked
from tests.contract.jobs import params
from tests.contract.tasks.batches.creating import Creating


def abandon_with_late_batch(creating: Creating, id: str) -> None:
    """Abandon a call whose batch the API creates much later."""
    creating.lose(drop_before_commit=True, commit_after_s=0.5)
    creating.step(id)
    creating.abandon(id)


def test_an_abandoned_call_is_forgotten_after_26_hours(creating: Creating) -> None:
    id = creating.submit([params()])
    abandon_with_late_batch(creating, id)
    creating.step(id)
    keys = creating.desk.settings.keys
    [(name, value)] = creating.size_lock(1).items()
    since, until = map(int, value.split())
    assert list(size_locks.locks_of(creating.desk.connection, keys, [1])[1].abandoned.values()) == [
        since
    ]
    creating.desk.connection.hset(keys.size_lock(1), name, f"{since} {until - 27 * 3_600_000}")
    assert not size_locks.locks_of(creating.desk.connection, keys, [1])[1].abandoned


def test_a_late_batch_is_adopted_if_its_shard_was_not_sent_again(creating: Creating) -> None:
    id = creating.submit([params()])
    abandon_with_late_batch(creating, id)
    creating.desk.connection.hset(creating.desk.keys(id).meta, "paused", b'{"type":"x"}')
    assert isinstance(creating.step(id), Parked)
    nonce = creating.shard(id).nonce
    assert (creating.shard(id).state, creating.shard(id).abandoned_nonces) == ("planned", (nonce,))
    wait_until(creating.control.batches)
    creating.desk.connection.hdel(creating.desk.keys(id).meta, "paused")
    assert isinstance(creating.step(id), Next)
    shard, batch = creating.shard(id), creating.only_batch()
    assert (shard.batch_id, shard.confirmed, shard.nonce) == (batch["id"], False, nonce)


def test_a_late_batch_is_adopted_before_its_shard_is_split(creating: Creating) -> None:
    """The abandoned call was made again, and that call was rejected as too large."""
    requests = [params(), params("others")]
    id = creating.submit(requests)
    abandon_with_late_batch(creating, id)
    creating.reject(413)
    assert isinstance(creating.dispatch(id), Parked)
    assert creating.meta(id, "too_large")
    creating.desk.connection.hdel(creating.desk.keys(id).meta, "paused")
    wait_until(creating.control.batches)
    assert isinstance(creating.dispatch(id), Next)
    assert creating.shard(id).batch_id == creating.only_batch()["id"]
    assert creating.meta(id, "left") == "1"


def test_a_shard_with_an_abandoned_call_is_split_if_the_call_has_created_no_batch(
    creating: Creating,
) -> None:
    id = creating.submit([params(), params("others")])
    creating.lose(drop_before_commit=True)
    creating.step(id)
    creating.abandon(id)
    creating.reject(413)
    assert isinstance(creating.dispatch(id), Parked)
    creating.desk.connection.hdel(creating.desk.keys(id).meta, "paused")
    assert isinstance(creating.dispatch(id), Next)
    assert creating.only_batch()["id"] == creating.shard(id).batch_id
    assert (creating.shard(id).requests, creating.meta(id, "left")) == (1, "2")


@pytest.mark.parametrize("dedicated", [True, False])
def test_a_duplicate_batch_raises_an_alert_and_is_canceled_in_a_dedicated_workspace(
    creating: Creating, dedicated: bool
) -> None:
    creating.restart(dedicated_workspace=dedicated)
    id, next_id = creating.submit([params()]), creating.submit([params(), params()])
    abandon_with_late_batch(creating, id)
    creating.step(id)
    wait_until(lambda: len(creating.control.batches()) == 2)
    assert creating.alert(id) is None
    creating.step(next_id)
    alert = creating.alert(next_id)
    assert alert is not None
    assert alert["type"] == "duplicate_batch"
    assert f"{id}/0" in alert["message"]
    kept = creating.shard(id).batch_id
    canceled = {batch["id"] for batch in creating.control.batches() if batch["canceled"]}
    duplicates = {batch["id"] for batch in creating.control.batches() if batch["requests"] == 1} - {
        kept
    }
    assert canceled == (duplicates if dedicated else set())


def test_an_unknown_batch_raises_an_alert_only_in_a_dedicated_workspace(
    creating: Creating,
) -> None:
    line: Any = {"custom_id": "theirs", "params": params()}
    before = creating.api.messages.batches.create(requests=[line])
    id = creating.submit([params()], [params(), params()])
    creating.step(id, 0)
    theirs = creating.api.messages.batches.create(requests=[line])
    creating.restart(dedicated_workspace=True)
    creating.step(id, 1)
    alert = creating.alert(id)
    assert alert is not None
    assert alert["type"] == "unknown_batch"
    assert theirs.id in alert["message"]
    assert before.id not in alert["message"]

    creating.control.reset()
    other = creating.submit([params()])
    creating.restart(dedicated_workspace=False)
    creating.api.messages.batches.create(requests=[line])
    creating.step(other)
    assert creating.alert(other) is None


def test_the_batches_of_this_deployment_raise_no_alert(creating: Creating) -> None:
    creating.restart(dedicated_workspace=True)
    id = creating.submit(*([params()] * (n + 1) for n in range(4)))
    creating.step(id, 0)
    creating.lose(commit_then_drop=True)
    creating.step(id, 1)  # its call is lost, and its batch is not found yet
    creating.step(id, 2)
    creating.step(id, 1)
    creating.step(id, 3)
    assert creating.alert(id) is None
    assert not any(batch["canceled"] for batch in creating.control.batches())
