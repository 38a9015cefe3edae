"""Lost create calls: the batch is found or the call is made again, and none is paid for twice."""

from typing import Any

import anthropic
import httpx2
import orjson
import pytest
import redis

from penstock.batches.jobs import JobRecords
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.testing import wait_until
from tasks.batches.claim import Fenced
from tasks.batches.create import batch_owners, reconcile, size_locks
from tasks.batches.poll import PollStep
from tasks.batches.step_result import Next, Parked, Redirect, RetryIn, StepResult
from tests.contract.jobs import api_at, expect, params
from tests.contract.tasks.batches.creating import LOST_CREATE_WAIT_MS, UPLOAD_TIMEOUT_MS, Creating


def only_batch(creating: Creating) -> Any:
    [batch] = creating.control.batches()
    return batch


@pytest.mark.parametrize(
    "fault",
    [
        {"commit_then_drop": True},
        {"commit_then_drop": True, "reset": True},
        {"commit_then_status": 500},
        {"commit_then_status": 529},
    ],
)
def test_the_batch_of_a_lost_create_call_is_found(
    creating: Creating, fault: dict[str, Any]
) -> None:
    id = creating.submit([params()])
    creating.lose(**fault)
    step = creating.step(id)
    assert 0 < expect(RetryIn, step).seconds <= 5
    assert creating.shard(id).over_ms >= creating.shard(id).sent_ms > 0
    assert creating.size_lock(1)
    assert isinstance(creating.step(id), Next)
    batch, shard = only_batch(creating), creating.shard(id)
    assert (shard.state, shard.batch_id, shard.confirmed) == ("in_progress", batch["id"], False)
    assert batch["first_custom_id"] == f"{shard.nonce}-000000"
    assert creating.owner(batch["id"]) == f"{id}/0"
    assert not creating.size_lock(1)


def test_a_batch_that_the_list_shows_late_is_found(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.control.configure(list_consistency_s=1000)
    creating.lose(commit_then_drop=True)
    creating.step(id)
    assert expect(RetryIn, creating.step(id)).seconds
    creating.control.configure(list_consistency_s=0)
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).batch_id == only_batch(creating)["id"]


def test_a_call_that_created_no_batch_is_made_again_after_every_wait(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.lose(drop_before_commit=True)
    creating.step(id)
    nonce = creating.shard(id).nonce
    creating.age(id, LOST_CREATE_WAIT_MS - 60_000)
    assert expect(RetryIn, creating.step(id)).seconds
    assert creating.shard(id).missed_ms == 0
    creating.abandon(id)
    assert creating.control.batches() == []
    assert isinstance(creating.step(id), Next)
    shard = creating.shard(id)
    assert shard.batch_id == only_batch(creating)["id"]
    assert shard.abandoned_nonces == (nonce,)
    assert shard.nonce != nonce
    assert list(creating.size_lock(1)) == [f"lost:{id}/0".encode()]


def test_a_worker_that_died_before_the_last_bytes_created_no_batch(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.die("request", id)
    shard = creating.shard(id)
    assert (shard.state, shard.sent_ms) == ("sending", 0)
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).batch_id == only_batch(creating)["id"]
    assert creating.shard(id).abandoned_nonces == ()


def test_the_batch_of_a_worker_that_died_before_the_response_is_found(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.die("response", id)
    shard = creating.shard(id)
    assert (shard.state, shard.over_ms) == ("sending", 0)
    assert shard.sent_ms
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).batch_id == only_batch(creating)["id"]


def test_a_batch_is_kept_if_its_worker_died_between_noting_the_owner_and_the_record(
    creating: Creating,
) -> None:
    id = creating.submit([params()])
    creating.step(id)
    shard = creating.shard(id)
    # As in Redis if the owner was noted and the record was not written.
    creating.desk.change(id, state="sending", batch_id="", confirmed=False)
    creating.step(id)
    assert creating.shard(id).batch_id == shard.batch_id
    assert len(creating.control.batches()) == 1


def test_a_fenced_worker_never_completes_its_body(creating: Creating) -> None:
    id = creating.submit([params()])
    with (
        creating.hooked("request", lambda: creating.desk.take_over(id)) as api,
        pytest.raises(Fenced),
    ):
        creating.step(id, api=api)
    assert creating.control.batches() == []
    assert (creating.shard(id).state, creating.shard(id).sent_ms) == ("sending", 0)


def test_the_batch_of_a_worker_that_was_fenced_after_its_call_is_found(creating: Creating) -> None:
    id = creating.submit([params()])
    with (
        creating.hooked("response", lambda: creating.desk.take_over(id)) as api,
        pytest.raises(Fenced),
    ):
        creating.step(id, api=api)
    creating.desk.connection.delete(creating.desk.keys(id).shard_lease(0))
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).batch_id == only_batch(creating)["id"]


def test_no_body_is_completed_without_redis(creating: Creating) -> None:
    with EmbeddedRedis() as server:
        own = Creating(server, creating.control)
        id = own.submit([params()])
        with own.hooked("request", server.kill) as api, pytest.raises(redis.RedisError):
            own.step(id, api=api)
        assert own.control.batches() == []
        with EmbeddedRedis(port=server.port, folder=server.folder):
            own.pass_restart_grace(id)
            own.step(id)
            assert own.shard(id).batch_id == only_batch(own)["id"]
            own.close()


def test_the_batch_of_a_call_after_which_redis_died_is_found(creating: Creating) -> None:
    with EmbeddedRedis() as server:
        own = Creating(server, creating.control)
        own.desk.connection.config_set("appendfsync", "everysec")
        id = own.submit([params()])
        with own.hooked("response", server.kill) as api, pytest.raises(redis.RedisError):
            own.step(id, api=api)
        with EmbeddedRedis(port=server.port, folder=server.folder):
            assert own.shard(id).sent_ms
            own.pass_restart_grace(id)
            assert isinstance(own.step(id), Next)
            assert own.shard(id).batch_id == only_batch(own)["id"]
            own.close()


def test_no_batch_is_created_if_the_time_of_sending_does_not_reach_the_disk(
    creating: Creating, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = creating.submit([params()])
    monkeypatch.setattr("tasks.batches.claimed_shard._ON_DISK_MS", 1)
    creating.desk.connection.config_set("appendfsync", "no")
    with pytest.raises(redis.TimeoutError):
        creating.step(id)
    assert creating.control.batches() == []
    assert (creating.shard(id).state, creating.shard(id).sent_ms) == ("planned", 0)
    creating.assert_holds_nothing(id)


def test_a_list_that_repeats_its_page_is_not_read_for_ever(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.lose(drop_before_commit=True)
    creating.step(id)
    batch = {
        "id": "msgbatch_1",
        "created_at": "2099-01-01T00:00:00Z",
        "request_counts": {"processing": 7},
        "processing_status": "in_progress",
    }
    page = httpx2.Response(200, json={"data": [batch], "has_more": True})
    asked = iter(range(10))

    def answer(_: httpx2.Request) -> httpx2.Response:
        next(asked)
        return page

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    with anthropic.Anthropic(api_key="k", http_client=client, max_retries=0) as api:
        assert "no end" in expect(RetryIn, creating.dispatch(id, api=api)).reason
    assert creating.shard(id).state == "sending"


def test_the_list_of_another_workspace_pauses_the_job(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.lose(commit_then_drop=True)
    creating.step(id)
    creating.age(id, 10 * LOST_CREATE_WAIT_MS)
    with api_at(creating.control, key="another") as api:
        assert isinstance(creating.step(id, api=api), Parked)
    assert orjson.loads(creating.meta(id, "paused"))["type"] == "other_account"
    assert creating.shard(id).state == "sending"
    JobRecords(creating.desk.connection, creating.desk.settings).resume(id, "me")
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).batch_id == only_batch(creating)["id"]


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
    batch = only_batch(creating)
    assert creating.shard(first).batch_id == batch["id"]
    creating.age(second, 10 * LOST_CREATE_WAIT_MS)
    for _ in range(3):
        assert expect(RetryIn, creating.step(second)).seconds
        creating.age(second, LOST_CREATE_WAIT_MS)
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
    batch = only_batch(creating)
    assert creating.shard(first).batch_id == creating.shard(second).batch_id == batch["id"]
    assert (creating.shard(first).confirmed, creating.shard(second).confirmed) == (False, True)
    assert creating.owner(batch["id"]) == f"{second}/0"


def test_a_cancel_waits_until_a_lost_call_is_resolved(creating: Creating) -> None:
    found, none = creating.submit([params()]), creating.submit([params(), params()])
    creating.lose(commit_then_drop=True)
    creating.step(found)
    creating.lose(drop_before_commit=True)
    creating.step(none)
    for id in (found, none):
        creating.cancel(id)
    creating.step(found)
    assert creating.shard(found).state == "in_progress"  # the poll step cancels it at the API
    assert expect(RetryIn, creating.step(none)).seconds
    assert creating.due_in_ms(none) > 1_000  # it does not search in a busy loop
    creating.abandon(none)
    creating.step(none)
    assert creating.shard(none).uniform_result == {"type": "canceled"}
    assert creating.meta(none, "left") == "0"
    assert len(creating.control.batches()) == 1
    creating.assert_holds_nothing(none)


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
    assert bool(only_batch(creating)["canceled"]) is dedicated


def test_a_cancel_is_immediate_if_the_last_bytes_were_not_sent(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.die("request", id)
    creating.cancel(id)
    creating.step(id)
    assert creating.shard(id).uniform_result == {"type": "canceled"}
    creating.assert_holds_nothing(id)
    assert creating.control.batches() == []


def abandon_with_late_batch(creating: Creating, id: str) -> None:
    """Abandon a call whose batch the API creates much later."""
    creating.lose(drop_before_commit=True, commit_after_s=0.5)
    creating.step(id)
    creating.abandon(id)


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
    shard, batch = creating.shard(id), only_batch(creating)
    assert (shard.batch_id, shard.confirmed, shard.nonce) == (batch["id"], False, nonce)


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


def test_the_call_of_a_dead_worker_is_abandoned_only_after_the_upload_timeout(
    creating: Creating,
) -> None:
    id = creating.submit([params()])
    creating.lose(drop_before_commit=True)
    creating.step(id)
    creating.desk.change(id, over_ms=0)
    creating.age(id, UPLOAD_TIMEOUT_MS + LOST_CREATE_WAIT_MS - 60_000)
    assert expect(RetryIn, creating.step(id)).seconds
    assert creating.shard(id).missed_ms == 0
    creating.age(id, 61_000)
    assert expect(RetryIn, creating.step(id)).seconds
    assert creating.shard(id).missed_ms
