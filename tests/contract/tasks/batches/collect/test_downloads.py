"""Downloads of results that are incomplete, of another create call, or not available."""

from typing import Any

import orjson
import pytest

from penstock.batches.shard import Counts
from penstock.clock import now_ms
from tasks.batches.create.size_locks import locks_of
from tasks.batches.step_result import JobEnded, Next, Parked, Redirect, RetryIn
from tasks.batches.transient_404 import TRANSIENT_MS
from tests.contract.tasks.batches.batch_stage import NONCE, BatchStage, StagedJob


def not_collected(job: StagedJob) -> bool:
    """Whether a failed collect left no results."""
    shard = job.shard()
    return shard.state == "ended" and job.chunks() == {"requests-0", "ids-0"}


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


def test_results_that_stay_empty_pause_the_job(stage: BatchStage) -> None:
    """An error page in place of the results shows nothing of any request."""
    job = stage.sent("a", "b")
    stage.control.fault(results_end=0, times=0)
    job.poll()
    job.put(job.shard().evolve(refetches=20))
    step = job.collect()
    assert isinstance(step, Parked)
    assert step.pause is not None
    assert step.pause["type"] == "results_incomplete"
    assert orjson.loads(job.meta("paused"))["type"] == "results_incomplete"
    assert job.shard().refetches == 0
    assert not_collected(job)


def test_results_that_are_interrupted_each_time_pause_the_job(stage: BatchStage) -> None:
    job = stage.sent("a", "b", "c")
    stage.control.fault(results_cut=700, times=0)
    job.poll()
    job.put(job.shard().evolve(refetches=20))
    assert isinstance(job.collect(), Parked)
    job.cancel()
    job.put(job.shard().evolve(refetches=8))
    assert isinstance(job.collect(), Next), "a canceled job takes what it can get"
    assert job.shard().counts.total == 3
    assert job.shard().errors["result_missing"] >= 1
    assert isinstance(job.finish(), JobEnded)


def test_results_of_a_canceled_job_that_never_become_available_are_given_up(
    stage: BatchStage,
) -> None:
    job = stage.sent("a")
    job.poll()
    job.cancel()
    stage.control.fault(results_lag=True, times=0)
    job.put(job.shard().evolve(refetches=8))
    assert isinstance(job.collect(), Next)
    assert job.shard().errors == {"results_incomplete": 1}
    assert isinstance(job.finish(), JobEnded)


def test_lines_that_stay_missing_are_errored_and_the_others_are_results(stage: BatchStage) -> None:
    job = stage.sent("a", "b", "c")
    stage.redis.hset(job.keys.money, mapping={"cap": 10**9, "reserved:0": 300_000})
    stage.control.fault(results_skip=0, times=0)
    for _ in range(8):
        assert isinstance(job.collect(), RetryIn)
        assert not_collected(job)
    assert isinstance(job.collect(), Next)
    types = [result["type"] for result in job.results().values()]
    assert sorted(types) == ["errored", "succeeded", "succeeded"]
    assert job.shard().counts == Counts(succeeded=2, errored=1)
    assert job.shard().errors == {"result_missing": 1}
    assert orjson.loads(job.meta("alert"))["type"] == "results_incomplete"
    # What the missing one has cost is not known: at most its output of 20,000 tokens.
    assert int(stage.redis.hget(job.keys.money, "spent")) > 20_000 * 2.5
    assert isinstance(job.finish(), JobEnded)
    assert job.meta("state") == "done"


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
    assert isinstance(job.collect(), RetryIn), "it may know the batch in a moment"
    job.put(job.shard().evolve(not_found_ms=now_ms() - TRANSIENT_MS))
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
