"""Poll, collect and finish on a real Redis and the simulator: all results are stored, or none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from penstock import events
from penstock.batches.shard import Counts
from penstock.clock import now_ms
from penstock.errors import SpoolUnavailable
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from tasks.batches.create.size_locks import locks_of
from tasks.batches.step_result import JobEnded, Next, Parked, Redirect, RetryIn, ShardDone
from tests.contract.jobs import expect
from tests.contract.tasks.batches.batch_stage import NONCE, BatchStage, StagedJob


@pytest.fixture
def stage(penstock_redis: EmbeddedRedis, penstock_control: Control) -> Iterator[BatchStage]:
    stage = BatchStage(penstock_redis, penstock_control)
    yield stage
    stage.redis.flushdb()
    stage.close()


def not_collected(job: StagedJob) -> bool:
    """Whether a failed collect left no results."""
    shard = job.shard()
    return shard.state == "ended" and job.chunks() == {"requests-0", "ids-0"}


def test_a_collected_shard_ends_its_job(stage: BatchStage) -> None:
    job = stage.sent("a", "b [[sim errored=invalid_request_error]]", "c [[sim u2028 odd]]")
    step = job.collect()
    shard = job.shard()
    assert (shard.state, shard.confirmed, shard.result_lines) == ("collected", True, 3)
    assert shard.counts == Counts(succeeded=2, errored=1)
    assert shard.errors == {"invalid_request_error": 1}
    assert isinstance(step, Next)
    assert step.summary["counts"]["succeeded"] == 2
    assert step.pause is None
    results = job.results()
    assert {name: result["type"] for name, result in results.items()} == {
        "r-0": "succeeded",
        "r-1": "errored",
        "r-2": "succeeded",
    }
    assert "\u2028" in orjson.dumps(results["r-2"]).decode()
    usage = [results[name]["message"]["usage"] for name in ("r-0", "r-2")]
    spent = shard.usage["claude-haiku-4-5"]
    assert spent["output_tokens"] == sum(each["output_tokens"] for each in usage) > 0
    assert job.meta("left") == "0"

    ended = job.finish()
    assert isinstance(ended, JobEnded)
    assert job.meta("state") == "done"
    end = job.events()[-1]
    assert end["type"] == events.END
    assert end["counts"]["succeeded"] == 2
    assert end["usage"]["output_tokens"] == spent["output_tokens"]
    assert end["cost"]["batch"] == pytest.approx(end["cost"]["live"] / 2)
    assert end["cost"]["saved"] > 0
    assert job.chunks() == {"ids-0", shard.results}
    assert 0 < stage.redis.ttl(job.keys.chunks(shard.results)) <= 50


def test_each_step_can_run_twice(stage: BatchStage) -> None:
    job = stage.sent("a", "b [[sim expired]]")
    job.collect()
    collected, log = job.shards(), job.events()
    assert isinstance(job.poll(), Next)
    assert expect(Next, job.collect()).summary["counts"]["succeeded"] == 1
    assert job.shards() == collected
    assert job.events() == log
    assert job.meta("left") == "1"
    assert isinstance(job.finish(), ShardDone)
    assert isinstance(job.finish(), ShardDone)
    assert job.meta("state") == "running"


@pytest.mark.parametrize(
    "fault",
    [
        {"results_cut": 700},
        {"results_cut": 700, "reset": True},
        {"results_end": 2},
        {"results_end": 0},
        {"results_skip": 0},
        {"results_skip": -1},
    ],
)
def test_an_incomplete_download_is_repeated(stage: BatchStage, fault: dict[str, Any]) -> None:
    job = stage.sent("a", "b", "c", "d")
    stage.control.fault(**fault)
    step = job.collect()
    assert isinstance(step, RetryIn)
    assert step.seconds > 0
    assert job.shard().refetches == 1
    assert not_collected(job)
    job.collect()
    assert sorted(job.results()) == ["r-0", "r-1", "r-2", "r-3"]


@pytest.mark.parametrize(
    "fault", [{"results_double": 1}, {"results_foreign": 1}, {"results_foreign": 0}]
)
def test_an_extra_line_is_left_out_once_other_downloads_have_one_too(
    stage: BatchStage, fault: dict[str, Any]
) -> None:
    job = stage.sent("a", "b", "c")
    stage.control.fault(**fault, times=0)
    for _ in range(2):
        assert isinstance(job.collect(), RetryIn)
        assert not_collected(job)
    assert isinstance(job.collect(), Next)
    assert sorted(job.results()) == ["r-0", "r-1", "r-2"]
    alert = orjson.loads(job.meta("alert"))
    assert alert["type"] == "results_superfluous"


@pytest.mark.parametrize(
    "fault",
    [{"results_blank": 1}, {"crlf": True}, {"chunk": 7}, {"chunk": 1}],
)
def test_line_ends_blank_lines_and_chunk_sizes_do_not_matter(
    stage: BatchStage, fault: dict[str, Any]
) -> None:
    job = stage.sent("a [[sim u2028]]", "b", "c [[sim expired]]")
    stage.control.fault(**fault, path="*/results")
    assert isinstance(job.collect(), Next)
    assert sorted(job.results()) == ["r-0", "r-1"]
    assert job.shard().refetches == 0


def test_results_that_stay_incomplete_pause_the_job(stage: BatchStage) -> None:
    job = stage.sent("a", "b")
    stage.control.fault(results_skip=0, times=0)
    job.poll()
    job.put(job.shard().evolve(refetches=20))
    step = job.collect()
    assert isinstance(step, Parked)
    assert step.pause is not None
    assert step.pause["type"] == "results_incomplete"
    assert orjson.loads(job.meta("paused"))["type"] == "results_incomplete"
    assert job.shard().refetches == 0
    assert not_collected(job)


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
    lines = job.lines(f"requests-{child.spool}", child.request_chunks)
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


def test_a_canceled_job_without_a_succeeded_request_ends_as_canceled(stage: BatchStage) -> None:
    job = stage.sent("a [[sim canceled]]")
    job.cancel()
    job.collect()
    job.finish()
    assert job.meta("state") == "canceled"


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


def test_a_batch_of_another_create_call_is_rejected(stage: BatchStage) -> None:
    job = stage.submit("a", "b")
    batch_id = job.send(nonce="zzzzzzzzzzzz", confirmed=False)
    step = job.collect()
    shard = job.shard()
    assert isinstance(step, Redirect)
    assert (shard.state, shard.batch_id, shard.rejected) == ("sending", "", (batch_id,))
    assert shard.step == "penstock.batch.create"
    assert stage.redis.get(stage.settings.keys.batch_owner(batch_id)) is None
    assert locks_of(stage.redis, stage.settings.keys, [2])[2].open
    assert job.chunks() == {"requests-0", "ids-0"}


def test_a_late_batch_of_an_earlier_call_is_collected(stage: BatchStage) -> None:
    job = stage.submit("a", "b")
    job.send(nonce="zzzzzzzzzzzz", confirmed=False)
    job.put(job.shard().evolve(abandoned_nonces=("yyyyyyyyyyyy", "zzzzzzzzzzzz")))
    assert isinstance(job.collect(), Redirect)
    assert job.shard().step == "penstock.batch.collect"
    job.collect()
    shard = job.shard()
    assert (shard.state, shard.nonce, shard.rejected) == ("collected", "zzzzzzzzzzzz", ())
    assert shard.abandoned_nonces == ("yyyyyyyyyyyy", NONCE)
    assert sorted(job.results()) == ["r-0", "r-1"]
    # If the batch of the later call appears, it is recognized as a duplicate.
    assert list(locks_of(stage.redis, stage.settings.keys, [2])[2].abandoned) == [f"{job.id}/0"]


def test_a_confirmed_batch_is_rejected_only_after_more_downloads(
    stage: BatchStage,
) -> None:
    job = stage.submit("a", "b")
    batch_id = job.send(nonce="zzzzzzzzzzzz")
    for _ in range(2):
        assert isinstance(job.collect(), RetryIn)
    assert isinstance(job.collect(), Redirect)
    assert job.shard().rejected == (batch_id,)


def test_an_empty_download_does_not_reject_the_batch(stage: BatchStage) -> None:
    """An error page in place of the results must not lead to a second create call."""
    job = stage.sent("a")
    job.put(job.shard().evolve(confirmed=False))
    stage.control.fault(results_end=0)
    assert isinstance(job.collect(), RetryIn)
    assert job.shard().state == "ended"


def test_results_that_are_not_available_yet_are_downloaded_later(stage: BatchStage) -> None:
    job = stage.sent("a")
    stage.control.fault(results_lag=True, times=3)
    job.poll()
    assert isinstance(job.collect(), RetryIn)
    stage.control.clear_faults()
    job.collect()
    assert sorted(job.results()) == ["r-0"]


def test_results_that_the_api_has_removed_end_the_job_as_failed(stage: BatchStage) -> None:
    job = stage.sent("a", "b")
    stage.control.archive_batch(job.shard().batch_id)
    stage.redis.hset(job.keys.money, mapping={"cap": 100, "reserved:0": 60})
    job.collect()
    shard = job.shard()
    assert job.stage.redis.hgetall(job.keys.money) == {b"cap": b"100", b"spent": b"60"}
    assert shard.state == "collected"
    assert shard.uniform_result is not None
    assert shard.uniform_result["error"]["error"]["type"] == "results_expired"
    assert shard.counts == Counts(errored=2)
    assert orjson.loads(job.meta("alert"))["type"] == "results_expired"
    assert isinstance(job.finish(), JobEnded)
    assert job.meta("state") == "failed"
    assert job.events()[-1]["error"]["type"] == "results_expired"


def test_a_batch_that_was_deleted_pauses_the_job(stage: BatchStage) -> None:
    job = stage.sent("a")
    job.poll()
    stage.api.messages.batches.delete(job.shard().batch_id)
    job.put(job.shard().evolve(created_ms=now_ms() - 3_600_000))
    step = job.collect()
    assert isinstance(step, Parked)
    assert step.pause is not None
    assert step.pause["type"] == "batch_not_found"
    job.cancel()
    job.put(job.shard().evolve(not_found_count=10))
    job.collect()
    assert job.shard().state == "collected"
    assert isinstance(job.finish(), JobEnded)


def test_a_batch_that_has_not_ended_is_polled_again(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    stage.control.hold_batch(job.shard().batch_id)
    job.put(job.shard().evolve(state="ended"))
    assert isinstance(job.collect(), Redirect)
    assert job.shard().state == "in_progress"


def test_missing_requests_do_not_lose_the_results(stage: BatchStage) -> None:
    job = stage.sent("a", "b [[sim expired]]")
    stage.redis.delete(job.keys.chunks("requests-0"))
    job.collect()
    assert orjson.loads(job.meta("alert"))["type"] == "requests_missing"
    assert job.shard().counts == Counts(succeeded=1, expired=1)
    assert len(job.shards()) == 1
    assert len(job.results()) == 2


def test_an_unavailable_spool_raises_an_alert(
    penstock_redis: EmbeddedRedis, penstock_control: Control, tmp_path: Path
) -> None:
    folder = tmp_path / "spool"
    stage = BatchStage(penstock_redis, penstock_control, spool_url=folder.as_uri())
    job = stage.sent("a")
    job.poll()
    folder.rename(tmp_path / "elsewhere")
    folder.touch()
    with pytest.raises(SpoolUnavailable):
        job.collect()
    assert orjson.loads(job.meta("alert"))["type"] == "spool_unavailable"
    folder.unlink()
    (tmp_path / "elsewhere").rename(folder)
    job.collect()
    assert sorted(job.results()) == ["r-0"]
    stage.redis.flushdb()
    stage.close()


def test_results_are_stored_in_files(
    penstock_redis: EmbeddedRedis, penstock_control: Control, tmp_path: Path
) -> None:
    stage = BatchStage(penstock_redis, penstock_control, spool_url=f"file://{tmp_path}")
    job = stage.sent("a", "b [[sim expired first=1]]")
    stage.control.fault(results_skip=0)
    assert isinstance(job.collect(), RetryIn)
    assert {path.name for path in (tmp_path / job.id).iterdir()} == {"requests-0", "ids-0"}
    assert expect(Next, job.collect()).wake == (1,)
    job.send(1)
    assert expect(Next, job.collect(1)).wake == ()
    assert isinstance(job.finish(1), JobEnded)
    assert sorted(job.results()) == ["r-0", "r-1"]
    parent, child = job.shards()
    assert {path.name for path in (tmp_path / job.id).iterdir()} == {
        *("ids-0", parent.results),
        *(f"ids-{child.spool}", child.results),
    }
    stage.redis.flushdb()
    stage.close()
