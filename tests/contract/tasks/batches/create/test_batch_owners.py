"""Size locks and batch owners: one open call of each size, and one owner of each batch."""

from typing import Any

import pytest

from tasks.batches.create import batch_owners, reconcile, size_locks
from tasks.batches.poll import PollStep
from tasks.batches.step_result import Next, Redirect, RetryIn, StepResult
from tests.contract.jobs import expect, params
from tests.contract.tasks.batches.creating import LOST_CREATE_WAIT_MS, Creating


def test_a_batch_of_another_program_is_adopted_and_rejected(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.lose(drop_before_commit=True)
    creating.step(id)
    line: Any = {"custom_id": "theirs", "params": params("theirs")}
    foreign = creating.api.messages.batches.create(requests=[line])
    assert isinstance(creating.step(id), Next)
    assert (creating.shard(id).batch_id, creating.shard(id).confirmed) == (foreign.id, False)

    # Its results show that it is not the shard's.
    def collect(work: Any) -> StepResult:
        batch_owners.release(work, work.shard.batch_id)
        work.write(reconcile.with_rejected_batch(work.shard))
        return Redirect("rejected")

    creating.desk.step(collect, id)
    assert creating.owner(foreign.id) == ""
    assert expect(RetryIn, creating.step(id)).seconds
    creating.abandon(id)
    assert isinstance(creating.step(id), Next)
    shard = creating.shard(id)
    assert shard.batch_id != foreign.id
    assert (shard.rejected, len(creating.control.batches())) == ((foreign.id,), 2)


@pytest.mark.parametrize("dedicated", [True, False])
def test_an_adopted_batch_is_canceled_at_the_api_only_in_a_dedicated_workspace(
    creating: Creating, dedicated: bool
) -> None:
    creating.restart(dedicated_workspace=dedicated)
    id = creating.submit([params()])
    creating.lose(commit_then_drop=True)
    creating.step(id)
    creating.step(id)
    creating.cancel(id)
    creating.desk.step(PollStep(creating.desk.settings, creating.api).run, id)
    assert bool(creating.only_batch()["canceled"]) is dedicated


def test_a_call_waits_for_an_open_call_of_the_same_size(creating: Creating) -> None:
    id = creating.submit([params("a")], [params("b")])
    creating.lose(drop_before_commit=True)
    creating.step(id, 0)
    step = creating.step(id, 1)
    assert isinstance(step, RetryIn)
    assert "same size" in step.reason
    assert 1 < step.seconds < 10
    creating.assert_holds_nothing(id, 1)
    creating.abandon(id)
    creating.step(id, 0)
    creating.step(id, 1)
    assert creating.shard(id, 1).confirmed
    assert len(creating.control.batches()) == 2


def test_a_call_that_stays_open_does_not_lock_its_size_for_ever(
    creating: Creating,
) -> None:
    creating.restart(lost_create_wait_s=7_200)
    id, other = creating.submit([params("a")]), creating.submit([params("b")])
    creating.lose(commit_then_drop=True)
    creating.step(id)
    creating.age(id, 3_500_000)
    assert expect(RetryIn, creating.step(other)).seconds
    creating.age(id, 200_000)
    assert isinstance(creating.step(other), Next)
    assert creating.shard(other).confirmed
    assert list(creating.size_lock(1)) == [f"open:{id}/0".encode()]
    assert isinstance(creating.step(id), Next)
    assert {creating.owner(batch["id"]) for batch in creating.control.batches()} == {
        f"{id}/0",
        f"{other}/0",
    }


@pytest.mark.parametrize("state", ["in_progress", "ended", "collected", None])
def test_a_size_lock_that_a_dead_worker_did_not_release_is_stale(
    creating: Creating, state: str | None
) -> None:
    id, other = creating.submit([params()]), creating.submit([params()])
    with creating.desk.claimed(other) as work:
        assert size_locks.acquire(work, "n" * 12)
    if state is None:
        creating.desk.connection.delete(creating.desk.keys(other).shards)
    else:
        creating.desk.change(other, state=state)
    assert isinstance(creating.step(id), Next)
    assert creating.size_lock(1) == {}


def test_no_shard_is_sent_again_while_another_may_have_adopted_its_batch(
    creating: Creating,
) -> None:
    """Two calls of one size: the shard whose call created no batch adopts that of the other."""
    first, second = creating.submit([params("a")]), creating.submit([params("b")])
    creating.lose(drop_before_commit=True)
    creating.step(first)
    creating.desk.connection.delete(
        creating.desk.settings.keys.size_lock(1)
    )  # as if the lock had expired
    creating.lose(commit_then_drop=True)
    creating.step(second)
    creating.step(first)
    batch = creating.only_batch()
    assert creating.shard(first).batch_id == batch["id"]
    creating.age(second, LOST_CREATE_WAIT_MS)
    for _ in range(3):
        assert expect(RetryIn, creating.step(second)).seconds
    with creating.desk.claimed(first) as work:
        batch_owners.release(work, batch["id"])
        work.write(reconcile.with_rejected_batch(work.shard))
        work.release()
    assert isinstance(creating.step(second), Next)
    assert creating.shard(second).batch_id == batch["id"]


def test_the_response_of_the_api_overrules_the_shard_that_adopted_the_batch(
    creating: Creating,
) -> None:
    """Another shard finds the batch in the list before the create call has its response."""
    first, second = creating.submit([params("a")]), creating.submit([params("b")])
    creating.lose(drop_before_commit=True)
    creating.step(first)
    creating.desk.connection.delete(creating.desk.settings.keys.size_lock(1))
    with creating.hooked("response", lambda: creating.step(first)) as api:
        creating.step(second, api=api)
    batch = creating.only_batch()
    assert creating.shard(first).batch_id == creating.shard(second).batch_id == batch["id"]
    assert (creating.shard(first).confirmed, creating.shard(second).confirmed) == (False, True)
    assert creating.owner(batch["id"]) == f"{second}/0"
