"""Steps that fail in a way that no step foresees, and records that cannot be read."""

import orjson
import pytest

from penstock import Client
from penstock.batches.jobs import JobRecords
from penstock.batches.shard import Counts
from penstock.clock import now_ms
from penstock.errors import NotFound, RecordUnreadable
from penstock.queue import names
from tasks.batches.collect.step import CollectStep
from tasks.batches.step_result import JobEnded, Next, Parked, RetryIn
from tasks.batches.steps import MAX_STEP_ERRORS
from tests.contract.jobs import expect
from tests.contract.tasks.batches.batch_stage import BatchStage, StagedJob


class Unforeseen(Exception):
    """An error that no step knows."""


@pytest.fixture
def broken(stage: BatchStage, monkeypatch: pytest.MonkeyPatch) -> BatchStage:
    """A deployment whose collect steps fail."""

    def fail(*_: object) -> None:
        raise Unforeseen("words of the error")

    monkeypatch.setattr(CollectStep, "run", fail)
    stage.steps = type(stage.steps)(stage.settings, stage.api)
    return stage


def fail_once(job: StagedJob, times: int) -> None:
    job.poll()
    for count in range(times):
        step = expect(RetryIn, job.step(names.BATCH_COLLECT))
        assert "Unforeseen" in step.reason
        assert "words" not in step.reason, "it may quote a request"
        assert job.shard().step_errors == count + 1


def test_an_unforeseen_error_is_retried_a_bounded_number_of_times(broken: BatchStage) -> None:
    job = broken.sent("a")
    fail_once(job, MAX_STEP_ERRORS - 1)
    step = expect(Parked, job.step(names.BATCH_COLLECT))
    assert step.pause is not None
    assert step.pause["type"] == "step_failed"
    for part in ("penstock.batch.collect", "Unforeseen: words of the error", job.shard().batch_id):
        assert part in step.pause["message"]
    assert orjson.loads(job.meta("paused"))["type"] == "step_failed"
    assert (job.shard().state, job.shard().step_errors) == ("ended", 0)


def test_a_resumed_job_repeats_the_step_that_failed(
    broken: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = broken.sent("a")
    fail_once(job, MAX_STEP_ERRORS - 1)
    job.step(names.BATCH_COLLECT)
    monkeypatch.undo()
    broken.steps = type(broken.steps)(broken.settings, broken.api)
    JobRecords(broken.redis, broken.settings).resume(job.id, "me")
    assert isinstance(job.collect(), Next)
    assert sorted(job.results()) == ["r-0"]


def test_a_step_that_succeeds_forgets_earlier_errors(
    broken: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = broken.sent("a")
    fail_once(job, 2)
    monkeypatch.undo()
    broken.steps = type(broken.steps)(broken.settings, broken.api)
    assert isinstance(job.collect(), Next)
    assert job.shard().step_errors == 0


def test_a_canceled_job_ends_although_a_step_of_it_fails(broken: BatchStage) -> None:
    job = broken.sent("a", "b")
    job.poll()
    job.cancel()
    fail_once(job, MAX_STEP_ERRORS - 1)
    assert isinstance(job.step(names.BATCH_COLLECT), Next)
    assert job.shard().counts == Counts(errored=2)
    assert job.shard().errors == {"step_failed": 2}
    assert isinstance(job.finish(), JobEnded)


@pytest.mark.parametrize(
    "record",
    [
        b"not JSON",
        b"[]",
        b"{}",
        b'{"number":0,"requests":"7"}',
        b'{"number":0,"counts":[]}',
        b'{"number":0,"counts":{"errored":null}}',
        b'{"number":0,"betas":null}',
        b'{"number":0,"usage":[]}',
        b'{"number":0,"uniform_result":7}',
    ],
)
def test_an_unreadable_record_of_a_shard_pauses_its_job(stage: BatchStage, record: bytes) -> None:
    job = stage.sent("a")
    stage.redis.hset(job.keys.shards, 0, record)
    step = expect(Parked, job.step(names.BATCH_POLL))
    assert step.pause is not None
    assert step.pause["type"] == "record_unreadable"
    assert orjson.loads(job.meta("paused"))["type"] == "record_unreadable"
    assert stage.redis.hget(job.keys.shards, 0) == record, "it is left as it was"
    job.cancel()
    assert isinstance(job.step(names.BATCH_POLL), RetryIn)


def test_a_canceled_job_ends_although_the_record_of_a_shard_is_unreadable(
    stage: BatchStage,
) -> None:
    """A newer worker has some minutes to read it. The result of the other shard is kept."""
    job = stage.sent("a", "b", shard_requests=1)
    id = job.shard(1).batch_id
    stage.redis.hset(job.keys.shards, 1, b'{"number":1,"batch_id":"%s",' % id.encode())
    job.cancel()
    assert isinstance(job.collect(0), Next)
    assert id in expect(RetryIn, job.step(names.BATCH_POLL, 1)).reason
    stage.redis.hset(job.keys.meta, "cancel_ms", now_ms() - 901_000)
    assert isinstance(job.step(names.BATCH_POLL, 1), Next)
    assert isinstance(job.finish(1), JobEnded)
    assert job.meta("state") == "failed"
    assert id in orjson.loads(job.meta("error"))["message"]
    assert list(job.results()) == ["r-0"]


def test_a_shard_whose_record_is_unreadable_hides_neither_its_job_nor_others(
    stage: BatchStage, client: Client
) -> None:
    jobs = [stage.sent("a", "b", shard_requests=1), stage.sent("c")]
    stage.redis.hset(jobs[0].keys.shards, 1, b"not JSON")
    assert {job.id for job in client.messages.batches.list()} == {job.id for job in jobs}
    shards = client.messages.batches.retrieve(jobs[0].id).shards
    assert [(each.number, each.state) for each in shards] == [(0, "in_progress"), (1, "unreadable")]


def test_an_ended_job_with_an_unreadable_record_loses_no_result_unnoticed_and_is_deleted(
    stage: BatchStage, client: Client
) -> None:
    job = stage.sent("a", "b", shard_requests=1)
    for number in range(2):
        job.collect(number)
        job.finish(number)
    stage.redis.hset(job.keys.shards, 1, b"not JSON")
    for order in ("completed", "submitted"):
        with pytest.raises(RecordUnreadable):
            list(client.messages.batches.result_lines(job.id, order=order))
    with pytest.raises(RecordUnreadable):
        client.messages.batches.retry_failed(job.id)
    client.messages.batches.delete(job.id)
    with pytest.raises(NotFound):
        client.messages.batches.retrieve(job.id)


def test_a_shard_in_a_state_of_a_newer_worker_is_left_to_it(stage: BatchStage) -> None:
    job = stage.sent("a")
    job.put(job.shard().evolve(state="something_new"))
    before = job.shard()
    for name in names.BATCH_STEPS:
        assert "something_new" in expect(RetryIn, job.step(name)).reason
    assert job.shard() == before
    assert job.meta("paused") == ""


@pytest.mark.parametrize("notice", [b"not JSON", b"[]", b"7"])
def test_an_unreadable_pause_reason_still_pauses_the_job(stage: BatchStage, notice: bytes) -> None:
    job = stage.sent("a")
    stage.redis.hset(job.keys.meta, "paused", notice)
    with job.claimed() as work:
        assert work.paused is not None
