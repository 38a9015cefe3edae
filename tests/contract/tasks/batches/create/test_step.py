"""The create step on a real Redis and the simulator: what it sends, waits for and reports."""

import itertools
import threading
from typing import Any

import anthropic
import httpx2
import orjson
import pytest

from penstock.batches.jobs import JobRecords
from penstock.clock import now_ms
from penstock.store.connection import connect
from tasks.batches.claim import Fenced, NotClaimed
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create.step import CreateStep
from tasks.batches.limits import active_batches
from tasks.batches.poll import PollStep
from tasks.batches.step_result import Next, Parked, RetryIn
from tests.contract.jobs import expect, params
from tests.contract.tasks.batches.creating import Creating

TWO = ([params("a")], [params("b"), params("c")])


def woken_by_release(creating: Creating, id: str) -> tuple[int, ...]:
    """The shards that are woken when shard 0 releases its slot."""
    step = creating.desk.step(lambda work: Next({}, wake=active_batches.release_and_wake(work)), id)
    return expect(Next, step).wake


def test_a_shard_becomes_one_batch(creating: Creating) -> None:
    id = creating.submit([params("a"), params("b"), params("c")])
    step = creating.step(id)
    [batch] = creating.control.batches(with_lines=True)
    shard = creating.shard(id)
    assert isinstance(step, Next)
    assert step.summary["batch_id"] == batch["id"]
    assert (shard.state, shard.batch_id, shard.confirmed) == ("in_progress", batch["id"], True)
    assert abs(shard.created_ms - now_ms()) < 60_000
    assert shard.sent_ms > 0
    assert shard.watermark == ""
    assert [line[0] for line in batch["lines"]] == [f"{shard.nonce}-{n:06d}" for n in range(3)]
    assert creating.owner(batch["id"]) == f"{id}/0"
    assert not creating.size_lock(3)
    assert creating.events(id) == ["penstock.progress"]


def test_a_create_step_that_runs_again_sends_nothing(creating: Creating) -> None:
    id = creating.submit([params()])
    for _ in range(3):
        creating.step(id)
    assert len(creating.control.batches()) == 1


def test_the_spooled_requests_are_sent_byte_for_byte(creating: Creating) -> None:
    texts = ["x" * 300_000, "\u2028\u0085 \\n", "ü" * 400_000, *(str(n) for n in range(5_000))]
    id = creating.submit([params(text) for text in texts])
    assert creating.shard(id).request_chunks > 1
    creating.control.end_batch(expect(Next, creating.step(id)).summary["batch_id"])
    [batch] = creating.control.batches(with_lines=True)
    paid = creating.hashes([params(text) for text in texts])
    assert [line[1] for line in batch["lines"]] == paid


def test_the_headers_of_the_job_and_the_betas_of_the_shard_are_sent(creating: Creating) -> None:
    headers = {"Anthropic-Beta": "one,two", "anthropic-user-profile-id": "p"}
    id = creating.submit([params()], headers=orjson.dumps(headers))
    creating.desk.change(id, betas=("two", "three"))
    creating.step(id)
    sent = creating.control.requests()[-1]
    assert sent["headers"]["anthropic-beta"] == "one,two,three"
    assert sent["headers"]["anthropic-user-profile-id"] == "p"
    assert int(sent["headers"]["content-length"]) == creating.shard(id).size
    listed = creating.control.requests()[-2]
    assert listed["headers"]["anthropic-user-profile-id"] == "p"


def test_the_newest_batch_before_the_call_is_the_watermark(creating: Creating) -> None:
    id = creating.submit(*TWO)
    creating.step(id, 0)
    creating.step(id, 1)
    assert creating.shard(id, 1).watermark == creating.shard(id, 0).batch_id
    assert creating.shard(id, 1).watermark_ms == creating.shard(id, 0).created_ms


@pytest.mark.parametrize("status", [429, 500, 529])
def test_an_error_of_the_list_leaves_the_shard_planned(creating: Creating, status: int) -> None:
    id = creating.submit([params()])
    creating.control.fault(status=status, method="GET", path="/v1/messages/batches")
    step = creating.dispatch(id)
    assert expect(RetryIn, step).seconds
    assert creating.shard(id).evolve(failures=0).state == "planned"
    creating.assert_holds_nothing(id)
    creating.step(id)
    assert len(creating.control.batches()) == 1


def test_a_rate_limited_create_call_is_retried_and_holds_no_slot(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.reject(429, retry_after=7)
    step = creating.dispatch(id)
    shard = creating.shard(id)
    assert 7 <= expect(RetryIn, step).seconds < 9
    assert (shard.state, shard.failures, shard.sent_ms) == ("planned", 1, 0)
    creating.assert_holds_nothing(id)
    assert creating.meta(id, "paused") is None
    creating.step(id)
    [batch] = creating.control.batches()
    assert (creating.shard(id).batch_id, creating.shard(id).failures) == (batch["id"], 0)


@pytest.mark.parametrize("status", [400, 401, 402, 403])
def test_a_rejected_create_call_pauses_the_job_for_one_reason(
    creating: Creating, status: int
) -> None:
    id = creating.submit(*TWO)
    creating.reject(status, message="invalid")
    step = creating.dispatch(id)
    assert isinstance(step, Parked)
    paused = orjson.loads(creating.meta(id, "paused"))
    assert (paused["message"], paused["status"], paused["shard"]) == ("invalid", status, 0)
    assert creating.shard(id).state == "planned"
    creating.assert_holds_nothing(id)
    assert creating.reaped_at(id) is None

    assert isinstance(creating.dispatch(id, 1), Parked)  # the other shards wait as well
    assert creating.control.batches() == []
    JobRecords(creating.desk.connection, creating.desk.settings).resume(id, "me")
    creating.dispatch(id, 0)
    creating.dispatch(id, 1)
    assert len(creating.control.batches()) == 2


def test_a_job_is_paused_without_an_api_key(creating: Creating, monkeypatch: Any) -> None:
    id = creating.submit([params()])
    monkeypatch.setenv("HOME", "/nonexistent")
    with anthropic.Anthropic(base_url=creating.control.base_url, max_retries=0) as api:
        assert api.api_key is None
        assert isinstance(creating.dispatch(id, api=api), Parked)
    paused = orjson.loads(creating.meta(id, "paused"))
    assert (paused["type"], "no API key" in paused["message"]) == ("authentication_error", True)
    creating.assert_holds_nothing(id)


def test_an_html_page_in_place_of_the_list_is_retried(creating: Creating) -> None:
    id = creating.submit([params()])
    page = httpx2.MockTransport(lambda _: httpx2.Response(200, html="<html>Log in</html>"))
    with anthropic.Anthropic(api_key="k", http_client=httpx2.Client(transport=page)) as api:
        for failures in (1, 2):
            step = creating.dispatch(id, api=api)
            assert "unexpected_response" in expect(RetryIn, step).reason
            assert creating.shard(id).failures == failures
    assert creating.meta(id, "paused") is None
    creating.assert_holds_nothing(id)


def test_a_refused_connection_leaves_the_shard_planned(creating: Creating) -> None:
    id = creating.submit([params()])
    with anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1:9", max_retries=0) as api:
        step = creating.dispatch(id, api=api)
    assert expect(RetryIn, step).seconds
    assert creating.shard(id).state == "planned"
    creating.assert_holds_nothing(id)


def test_missing_requests_pause_the_job(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.desk.connection.delete(creating.desk.keys(id).chunks("requests-0"))
    assert isinstance(creating.step(id), Parked)
    assert orjson.loads(creating.meta(id, "paused"))["type"] == "requests_missing"
    assert (creating.shard(id).state, creating.control.batches()) == ("planned", [])
    creating.assert_holds_nothing(id)


@pytest.mark.parametrize("wrong", [{"size": 5_000}, {"requests": 2}])
def test_a_body_that_differs_from_the_record_is_never_completed(
    creating: Creating, wrong: dict[str, int]
) -> None:
    id = creating.submit([params()])
    creating.desk.change(id, **wrong)
    assert isinstance(creating.step(id), Parked)
    assert (creating.shard(id).state, creating.control.batches()) == ("planned", [])


def test_a_paused_job_sends_nothing_and_holds_no_reservation(creating: Creating) -> None:
    id = creating.submit([params()], paused=orjson.dumps({"type": "x", "message": "y"}))
    step = creating.step(id)
    assert isinstance(step, Parked)
    assert creating.reaped_at(id) is None
    assert creating.control.requests() == []
    creating.assert_holds_nothing(id)


def test_a_shard_waits_for_the_canary(creating: Creating) -> None:
    id = creating.submit([params()], waiting_for_canary="1")
    assert expect(RetryIn, creating.step(id)).seconds > 60
    assert creating.control.requests() == []


def test_a_canceled_job_sends_nothing(creating: Creating) -> None:
    id = creating.submit(*TWO)
    creating.cancel(id)
    for number, requests in enumerate((1, 2)):
        assert isinstance(creating.step(id, number), Next)
        shard = creating.shard(id, number)
        assert (shard.state, shard.uniform_result) == ("collected", {"type": "canceled"})
        assert (shard.counts.canceled, shard.counts.total) == (requests, requests)
        assert shard.collected_ms
    assert creating.meta(id, "left") == "0"
    assert creating.control.requests() == []


def test_a_canceled_job_is_not_held_by_its_pause(creating: Creating) -> None:
    id = creating.submit([params()], paused=b'{"type":"x"}')
    creating.desk.connection.hset(creating.desk.keys(id).meta, "cancel", "me")
    creating.step(id)
    assert creating.shard(id).state == "collected"


@pytest.mark.parametrize("limit", [{"active_batches_limit": 1}, {"queued_requests_limit": 2}])
def test_a_shard_waits_for_a_slot_and_is_woken_for_it(
    creating: Creating, limit: dict[str, int]
) -> None:
    creating.restart(**limit)
    id = creating.submit(*TWO)
    creating.step(id, 0)
    step = creating.step(id, 1)
    assert isinstance(step, RetryIn)
    assert "slot" in step.reason
    assert 10 < step.seconds < 30
    assert len(creating.control.batches()) == 1
    assert woken_by_release(creating, id) == (1,)
    creating.step(id, 1)
    assert len(creating.control.batches()) == 2
    assert woken_by_release(creating, id) == ()


def test_shards_of_a_large_job_ask_for_slots_less_often(creating: Creating) -> None:
    creating.restart(active_batches_limit=1)
    id = creating.submit(*TWO, left=1_000)
    creating.step(id, 0)
    assert 100 < expect(RetryIn, creating.step(id, 1)).seconds < 300
    creating.desk.connection.hset(creating.desk.keys(id).meta, "left", 1_000_000)
    assert 300 <= expect(RetryIn, creating.step(id, 1)).seconds <= 500


def test_a_batch_that_has_ended_wakes_another_shard_of_its_job(creating: Creating) -> None:
    creating.restart(active_batches_limit=1)
    id = creating.submit(*TWO)
    creating.control.end_batch(expect(Next, creating.step(id, 0)).summary["batch_id"])
    creating.step(id, 1)
    poll = PollStep(creating.desk.settings, creating.api)
    assert expect(Next, creating.desk.step(poll.run, id)).wake == (1,)
    assert expect(Next, creating.step(id, 1)).summary["batch_id"]


def test_a_cost_cap_lets_one_shard_wait_for_the_actual_cost_of_another(creating: Creating) -> None:
    id = creating.submit(*TWO)
    creating.cap(id, 230)  # one of the shards may cost less, both together more
    creating.step(id, 0)
    step = creating.step(id, 1)
    assert isinstance(step, RetryIn)
    assert "cost" in step.reason
    assert step.seconds
    creating.assert_holds_nothing(id, 1)
    with creating.desk.claimed(id, 0) as work:
        work.write(spent=1)
    creating.step(id, 1)
    assert len(creating.control.batches()) == 2


def test_a_shard_above_the_cost_cap_pauses_the_job(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.cap(id, 1)
    assert isinstance(creating.step(id), Parked)
    paused = orjson.loads(creating.meta(id, "paused"))
    assert paused["type"] == "cost_limit"
    assert "USD" in paused["message"]
    creating.assert_holds_nothing(id)
    assert creating.control.batches() == []


def test_a_model_without_a_price_pauses_only_a_job_with_a_cost_cap(creating: Creating) -> None:
    id, free = (creating.submit([params(model="unknown-model")]) for _ in range(2))
    creating.cap(id, 10**9)
    assert isinstance(creating.step(id), Parked)
    assert orjson.loads(creating.meta(id, "paused"))["type"] == "price_unknown"
    creating.step(free)
    assert len(creating.control.batches()) == 1


def test_a_failed_call_releases_its_reserved_cost(creating: Creating) -> None:
    id = creating.submit([params()])
    creating.cap(id, 10**6)
    creating.reject(429)
    creating.dispatch(id)
    money = creating.desk.connection.hgetall(creating.desk.keys(id).money)
    assert money == {b"cap": b"1000000", b"spent": b"0"}


def test_many_workers_send_each_shard_once(creating: Creating) -> None:
    """Every shard gets several wake-ups at once."""
    id = creating.submit(*([params(str(n))] * (n + 1) for n in range(6)))
    errors: list[BaseException] = []

    def worker(name: str) -> None:
        connection = connect(creating.desk.settings)
        step = CreateStep(creating.desk.settings, creating.api)
        for number in itertools.chain(range(6), range(6)):
            try:
                with ClaimedShard.claim(
                    connection, creating.desk.settings, job=id, shard=number, worker=name
                ) as work:
                    step.run(work)
                    work.release()
            except (NotClaimed, Fenced):
                continue
            except BaseException as error:
                errors.append(error)
        connection.close()

    threads = [threading.Thread(target=worker, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(batch["requests"] for batch in creating.control.batches()) == [1, 2, 3, 4, 5, 6]
