"""Requests that the collect step retries, and failures that pause the job first."""

import orjson
import pytest

from penstock.batches.shard import Counts
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from tasks.batches.step_result import JobEnded, Next
from tests.contract.jobs import expect
from tests.contract.tasks.batches.batch_stage import NONCE, BatchStage


def test_expired_requests_and_transient_errors_are_retried(stage: BatchStage) -> None:
    job = stage.sent(
        "a",
        "b [[sim expired first=1]]",
        "c [[sim errored=overloaded_error first=1]]",
        "d [[sim errored=api_error first=1]]",
        "e [[sim errored=not_found_error]]",
    )
    step = job.collect()
    parent, child = job.shards()
    assert expect(Next, step).wake == (child.number,) == (1,)
    assert parent.counts == Counts(succeeded=1, errored=1)
    assert (parent.retried, parent.result_lines) == (3, 2)
    assert child.state == "planned"
    assert (child.requests, child.round, child.first, child.last) == (3, 1, 1, 3)
    assert child.counts == Counts(processing=3)
    assert child.size_by_model["claude-haiku-4-5"][1] == 60_000
    assert job.meta("left") == "1"
    assert stage.redis.zscore(stage.settings.keys.live_shards, f"{job.id}/1") is not None

    job.send(1, nonce=NONCE)
    assert expect(Next, job.collect(1)).wake == ()
    assert isinstance(job.finish(1), JobEnded)
    assert {name: result["type"] for name, result in job.results().items()} == {
        **{f"r-{place}": "succeeded" for place in range(4)},
        "r-4": "errored",
    }
    end = job.events()[-1]
    assert (end["counts"]["succeeded"], end["counts"]["errored"]) == (4, 1)


def test_the_body_of_a_retry_shard_has_the_size_in_its_record(stage: BatchStage) -> None:
    job = stage.sent("a [[sim expired]]", "b", "c ü [[sim expired]]", "d [[sim expired]]")
    job.collect()
    child = job.shard(1)
    lines = job.lines(child.request_chunk_name, child.request_chunks)
    body = {
        "requests": [
            {"custom_id": f"{NONCE}-{place:06d}", "params": orjson.loads(line)}
            for place, line in enumerate(lines)
        ]
    }
    assert len(orjson.dumps(body)) == child.size


def test_requests_are_retried_for_a_limited_number_of_rounds(stage: BatchStage) -> None:
    job = stage.sent("a [[sim expired]]")
    for number in range(stage.settings.max_retry_rounds):
        assert expect(Next, job.collect(number)).wake == (number + 1,)
        job.send(number + 1)
    last = stage.settings.max_retry_rounds
    assert expect(Next, job.collect(last)).wake == ()
    assert job.shard(last).counts == Counts(expired=1)
    assert isinstance(job.finish(last), JobEnded)
    assert job.results()["r-0"] == {"type": "expired"}


@pytest.mark.parametrize(
    ("directive", "reason"),
    [
        ("errored=billing_error", "billing_error"),
        ("errored=authentication_error", "authentication_error"),
        ("errored=permission_error", "permission_error"),
        ("no_credit", "billing_error"),
        ("canceled", "canceled_elsewhere"),
    ],
)
def test_a_failure_that_the_operator_can_remedy_pauses_the_job_and_is_retried(
    stage: BatchStage, directive: str, reason: str
) -> None:
    job = stage.sent("a", f"b [[sim {directive}]]")
    job.put(job.shard().evolve(round=9))
    step = job.collect()
    assert isinstance(step, Next)
    assert step.pause is not None
    assert step.pause["type"] == reason
    assert step.pause["message"]
    assert step.wake == ()
    assert orjson.loads(job.meta("paused"))["type"] == reason
    assert [shard.requests for shard in job.shards()] == [2, 1]
    assert sorted(job.results()) == ["r-0"]


def test_a_shard_whose_requests_are_all_retried_stores_no_results(stage: BatchStage) -> None:
    job = stage.sent("a [[sim no_credit]]", "b [[sim no_credit]]")
    job.collect()
    parent, child = job.shards()
    assert (parent.state, parent.results, parent.result_lines) == ("collected", "", 0)
    assert child.requests == 2


def test_no_request_of_a_canceled_job_is_retried(stage: BatchStage) -> None:
    job = stage.sent("a", "b [[sim expired]]", "c [[sim canceled]]", "d [[sim no_credit]]")
    job.cancel()
    step = job.collect()
    assert isinstance(step, Next)
    assert step.pause is None
    assert job.shard().counts == Counts(succeeded=1, expired=1, canceled=1, errored=1)
    assert isinstance(job.finish(), JobEnded)
    assert job.meta("state") == "done"
    assert job.events()[-1]["by"] == "me"
    assert len(job.results()) == 4


def test_the_circuit_breaker_pauses_a_job_with_shards_to_send(
    penstock_redis: EmbeddedRedis, penstock_control: Control
) -> None:
    stage = BatchStage(penstock_redis, penstock_control, shard_requests=10)
    job = stage.submit(*["x [[sim errored=invalid_request_error]]"] * 20)
    job.send(0)
    step = job.collect(0)
    assert isinstance(step, Next)
    assert step.pause is not None
    assert step.pause["type"] == "same_error"
    assert "10 of 10" in step.pause["message"]
    job.send(1)
    assert expect(Next, job.collect(1)).pause is None, "nothing is left to send"
    assert isinstance(job.finish(1), JobEnded)
    assert job.meta("paused") == ""
    stage.redis.flushdb()
    stage.close()


def test_missing_requests_do_not_lose_the_results(stage: BatchStage) -> None:
    job = stage.sent("a", "b [[sim expired]]")
    stage.redis.delete(job.keys.chunks("requests-0"))
    job.collect()
    assert orjson.loads(job.meta("alert"))["type"] == "requests_missing"
    assert job.shard().counts == Counts(succeeded=1, expired=1)
    assert len(job.shards()) == 1
    assert len(job.results()) == 2
