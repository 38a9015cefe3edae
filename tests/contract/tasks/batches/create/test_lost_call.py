"""Lost create calls: the batch is found or the call is made again, and none is paid for twice."""

from typing import Any

import anthropic
import httpx2
import orjson
import pytest
import redis

from penstock.batches.jobs import JobRecords
from penstock.local.embedded_redis import EmbeddedRedis
from tasks.batches.claim import Fenced
from tasks.batches.step_result import Next, Parked, RetryIn
from tests.contract.jobs import api_at, expect, params
from tests.contract.tasks.batches.creating import (
    LIST_CONSISTENCY_MS,
    LOST_CREATE_WAIT_MS,
    UPLOAD_TIMEOUT_MS,
    Creating,
)


@pytest.mark.parametrize(
    "fault",
    [
        {"commit_then_drop": True},
        {"commit_then_drop": True, "reset": True},
        {"commit_then_status": 408},
        {"commit_then_status": 409},
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
    batch, shard = creating.only_batch(), creating.shard(id)
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
    assert creating.shard(id).batch_id == creating.only_batch()["id"]


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
    assert shard.batch_id == creating.only_batch()["id"]
    assert shard.abandoned_nonces == (nonce,)
    assert shard.nonce != nonce
    assert list(creating.size_lock(1)) == [f"abandoned:{id}/0".encode()]


def test_three_calls_that_create_no_batch_pause_the_job(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.lose(drop_before_commit=True)
    creating.step(id)
    for _ in range(2):
        creating.abandon(id)
        creating.lose(drop_before_commit=True)
        assert isinstance(creating.step(id), RetryIn)
        assert creating.shard(id).sent_ms, "the call is made again"
    creating.abandon(id)
    assert isinstance(creating.dispatch(id), Parked)
    paused = orjson.loads(creating.meta(id, "paused"))
    assert paused["type"] == "create_unanswered"
    assert "3 create calls" in paused["message"]
    assert "connection_error" in paused["message"]
    creating.assert_holds_nothing(id)
    JobRecords(creating.desk.connection, creating.desk.settings).resume(id, "me")
    assert isinstance(creating.dispatch(id), Next)
    assert creating.shard(id).batch_id == creating.only_batch()["id"]


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


def test_a_worker_that_died_before_the_last_bytes_created_no_batch(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.die("request", id)
    shard = creating.shard(id)
    assert (shard.state, shard.sent_ms) == ("sending", 0)
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).batch_id == creating.only_batch()["id"]
    assert creating.shard(id).abandoned_nonces == ()


def test_the_batch_of_a_worker_that_died_before_the_response_is_found(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.die("response", id)
    shard = creating.shard(id)
    assert (shard.state, shard.over_ms) == ("sending", 0)
    assert shard.sent_ms
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).batch_id == creating.only_batch()["id"]


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
    assert creating.shard(id).batch_id == creating.only_batch()["id"]


def test_no_body_is_completed_without_redis(creating: Creating) -> None:
    with EmbeddedRedis() as server:
        own = Creating(server, creating.control)
        id = own.submit([params()])
        with own.hooked("request", server.kill) as api, pytest.raises(redis.RedisError):
            own.step(id, api=api)
        assert own.control.batches() == []
        with EmbeddedRedis(port=server.port, folder=server.folder):
            own.pass_grace(id)
            own.step(id)
            assert own.shard(id).batch_id == own.only_batch()["id"]
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
            own.pass_grace(id)
            assert isinstance(own.step(id), Next)
            assert own.shard(id).batch_id == own.only_batch()["id"]
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


def foreign_batches(creating: Creating, count: int, *, ended: bool) -> list[str]:
    """Let another program create batches of one request."""
    line: Any = {"custom_id": "theirs", "params": params("theirs")}
    found = [creating.api.messages.batches.create(requests=[line]).id for _ in range(count)]
    for id in found if ended else ():
        creating.control.end_batch(id)
    return found


@pytest.mark.parametrize("created", [True, False])
def test_ended_batches_of_another_program_are_each_read_once_before_one_is_adopted(
    creating: Creating, created: bool
) -> None:
    id = creating.submit([params()])
    creating.lose(**({"commit_then_drop": True} if created else {"drop_before_commit": True}))
    creating.step(id)
    own = [batch["id"] for batch in creating.control.batches()]
    foreign = foreign_batches(creating, 7, ended=True)
    read: list[str] = []

    def count(request: httpx2.Request) -> None:
        if request.url.path.endswith("/results"):
            read.append(request.url.path.split("/")[-2])

    client = httpx2.Client(event_hooks={"request": [count]}, timeout=30)
    base_url = creating.control.base_url
    with anthropic.Anthropic(
        api_key="simulated-key", base_url=base_url, max_retries=0, http_client=client
    ) as api:
        for _ in range(3):
            creating.step(id, api=api)
    assert sorted(read) == sorted(foreign)
    assert sorted(creating.shard(id).rejected) == sorted(foreign)
    assert [creating.shard(id).batch_id] == (own or [""])
    if own:
        return
    creating.abandon(id)
    assert creating.shard(id).state == "sending"
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).confirmed


def test_the_shards_own_batch_is_recognized_among_more_ended_ones_than_one_step_reads(
    creating: Creating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.batches.create.ended_candidates.MAX_READ", 2)
    id = creating.submit([params()])
    foreign = foreign_batches(creating, 3, ended=True)  # within the difference of two clocks
    creating.lose(commit_then_drop=True)
    creating.step(id)
    [own] = {batch["id"] for batch in creating.control.batches()} - set(foreign)
    creating.control.end_batch(own)
    creating.desk.change(id, watermark="")
    assert "reading" in expect(RetryIn, creating.step(id)).reason
    assert creating.shard(id).rejected == tuple(foreign[:2])
    assert isinstance(creating.step(id), Next)
    assert (creating.shard(id).batch_id, creating.shard(id).rejected) == (own, tuple(foreign))


def test_a_batch_from_after_all_waiting_is_not_adopted(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.lose(drop_before_commit=True)
    creating.step(id)
    creating.age(id, LOST_CREATE_WAIT_MS + 2 * LIST_CONSISTENCY_MS + 60_000)
    foreign_batches(creating, 3, ended=False)
    assert "searching once more" in expect(RetryIn, creating.step(id)).reason
    foreign_batches(creating, 3, ended=True)
    creating.age(id, LIST_CONSISTENCY_MS)
    assert isinstance(creating.step(id), Next)
    shard = creating.shard(id)
    assert (shard.confirmed, shard.rejected, len(shard.abandoned_nonces)) == (True, (), 1)


def test_the_list_of_another_workspace_pauses_the_job(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.lose(commit_then_drop=True)
    creating.step(id)
    creating.age(id, LOST_CREATE_WAIT_MS)
    with api_at(creating.control, key="another") as api:
        assert isinstance(creating.step(id, api=api), Parked)
    assert orjson.loads(creating.meta(id, "paused"))["type"] == "other_workspace"
    assert creating.shard(id).state == "sending"
    JobRecords(creating.desk.connection, creating.desk.settings).resume(id, "me")
    assert isinstance(creating.step(id), Next)
    assert creating.shard(id).batch_id == creating.only_batch()["id"]


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


def test_a_cancel_is_immediate_if_the_last_bytes_were_not_sent(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.die("request", id)
    creating.cancel(id)
    creating.step(id)
    assert creating.shard(id).uniform_result == {"type": "canceled"}
    creating.assert_holds_nothing(id)
    assert creating.control.batches() == []
