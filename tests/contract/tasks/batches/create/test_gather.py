"""Retry shards that share a batch: no request is lost or sent twice if a worker fails."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import redis

from penstock.batches.shard import Shard
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue import names
from penstock.simulator.control import Control
from penstock.store.scripts import ScriptCall
from tasks.batches.claim import Fenced
from tasks.batches.create.gather import gather
from tasks.batches.job_reader import JobReader
from tasks.batches.limits import active_batches
from tasks.batches.limits.prices import bound_usd
from tasks.batches.step_result import JobEnded, RetryIn
from tests.contract.jobs import expect
from tests.contract.tasks.batches.batch_stage import BatchStage, StagedJob


@pytest.fixture
def stage(penstock_redis: EmbeddedRedis, quiet_simulator: Control) -> Iterator[BatchStage]:
    quiet_simulator.reset()
    stage = BatchStage(penstock_redis, quiet_simulator, shard_requests=4)
    yield stage
    stage.redis.flushdb()
    stage.close()


def with_retries(stage: BatchStage, *, collected: int = 99) -> StagedJob:
    """A job of several shards, each with a request to retry; the first ones are collected."""
    texts = [f"{n} [[sim expired first=1]]" if n % 6 == 0 else f"{n}" for n in range(30)]
    job = stage.sent(*texts, shard_requests=10)
    for shard in job.shards()[:collected]:
        job.poll(shard.number)
        ended = job.shard(shard.number)
        job.put(ended.evolve(created_ms=ended.ended_ms - 5_000))
        job.collect(shard.number)
    return job


def waiting(job: StagedJob) -> list[int]:
    """The numbers of the retry shards that are not sent."""
    return [shard.number for shard in job.shards() if shard.round and shard.state == "planned"]


def texts_of(job: StagedJob, number: int) -> list[str]:
    """The texts of a shard's requests."""
    shard = job.shard(number)
    lines = job.lines(shard.request_chunk_name, shard.request_chunks)
    return [orjson.loads(line)["messages"][0]["content"] for line in lines]


def test_the_retried_requests_of_a_round_share_a_batch(stage: BatchStage) -> None:
    job = with_retries(stage)
    first, *others = waiting(job)
    assert others
    expected = sorted(text for number in (first, *others) for text in texts_of(job, number))
    job.step(names.BATCH_CREATE, first)
    sent = job.shard(first)
    assert (sent.state, sent.requests) == ("in_progress", len(expected))
    assert sorted(texts_of(job, first)) == expected
    for number in others:
        emptied = job.shard(number)
        assert (emptied.state, emptied.retried) == ("collected", emptied.requests)
        assert emptied.result_lines == 0
        assert emptied.counts.total == 0
        job.step(names.BATCH_FINISH, number)
    assert job.meta("left") == "1"
    stage.control.end_batch(sent.batch_id)
    job.collect(first)
    assert isinstance(job.finish(first), JobEnded)
    assert len(job.results()) == 30
    assert {result["type"] for result in job.results().values()} == {"succeeded"}
    assert not [name for name in job.chunks() if name.startswith("requests")]


def test_a_retry_shard_waits_while_a_batch_of_its_round_runs(stage: BatchStage) -> None:
    job = with_retries(stage, collected=2)
    first, second = waiting(job)
    for number in (first, second):
        step = expect(RetryIn, job.step(names.BATCH_CREATE, number))
        assert "other requests to retry" in step.reason
    assert waiting(job) == [first, second]


def test_a_shard_that_another_worker_has_claimed_is_not_taken(stage: BatchStage) -> None:
    job = with_retries(stage)
    first, second, *others = waiting(job)
    with job.claimed(second, worker="other"):
        job.step(names.BATCH_CREATE, first)
    assert waiting(job) == [second]
    for number in others:
        assert job.shard(number).state == "collected"
    assert job.shard(first).requests == 5 - job.shard(second).requests


def test_a_lost_claim_of_one_of_the_shards_changes_nothing(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was suspended, and another one has claimed a shard that it was about to take."""
    job = with_retries(stage)
    first, second, *_ = waiting(job)
    before, chunks = job.shards(), job.chunks()
    run = ScriptCall.run

    def late(call: ScriptCall[Any], connection: Any) -> Any:
        if len(call.args) > 13 and call.args[12]:  # the write that changes all of the shards
            monkeypatch.undo()
            stage.redis.delete(job.keys.shard_lease(second))
            with job.claimed(second, worker="other"):
                return run(call, connection)
        return run(call, connection)

    with job.claimed(first) as work:
        monkeypatch.setattr(ScriptCall, "run", late)
        with pytest.raises(Fenced):
            gather(work)
    assert job.shards() == before
    assert job.chunks() == chunks


@pytest.mark.parametrize("written", [True, False])
def test_a_worker_that_dies_while_it_takes_shards_leaves_each_request_once(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    job = with_retries(stage)
    first, *others = waiting(job)
    run = ScriptCall.run

    def broken(call: ScriptCall[Any], connection: Any) -> Any:
        if len(call.args) > 13 and call.args[12]:
            monkeypatch.undo()
            if written:
                run(call, connection)
            raise redis.ConnectionError
        return run(call, connection)

    with job.claimed(first) as work:
        monkeypatch.setattr(ScriptCall, "run", broken)
        with pytest.raises(redis.ConnectionError):
            gather(work)
    assert waiting(job) == ([first] if written else [first, *others])
    job.step(names.BATCH_CREATE, first)
    assert job.shard(first).requests == 5
    assert waiting(job) == []
    assert job.meta("left") == "1"


def test_a_shard_that_has_taken_others_since_is_not_taken(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they could be more than a batch may have."""
    job = with_retries(stage)
    first, second, *others = waiting(job)
    read = JobReader.shards

    def late(reader: JobReader) -> list[Shard]:
        found = read(reader)
        monkeypatch.undo()
        with job.claimed(second, worker="other") as work:
            for number in others:
                job.put(job.shard(number - 3).evolve(collected_ms=1))
            job.put(job.shard(second - 3).evolve(collected_ms=1))
            gather(work)
        return found

    with job.claimed(first) as work:
        monkeypatch.setattr(JobReader, "shards", late)
        gather(work)
    assert waiting(job) == [first, second]
    assert job.shard(first).requests + job.shard(second).requests == 5


def test_shards_that_are_gathered_keep_no_lock_of_a_dead_worker(stage: BatchStage) -> None:
    job = with_retries(stage)
    first, second, *_ = waiting(job)
    sizes = [job.shard(number).requests for number in (first, second)]
    for number in (first, second):
        with job.claimed(number) as work:
            stage.redis.hset(
                work.settings.keys.size_lock(work.shard.requests), f"open:{work.member}", "x"
            )
            assert active_batches.acquire(work)
    with job.claimed(first) as work:
        gather(work)
    assert not any(stage.redis.exists(stage.settings.keys.size_lock(size)) for size in sizes)
    assert not stage.redis.exists(stage.settings.keys.active_batches)


def test_shards_are_not_gathered_beyond_what_is_left_of_the_cost_cap(stage: BatchStage) -> None:
    """A batch of all would pause the job, which can pay for one after the other."""
    job = with_retries(stage)
    first, *others = waiting(job)
    price = bound_usd(job.shard(first).size_by_model, live=False)
    assert price is not None
    per_request = price * 1_000_000 / job.shard(first).requests
    stage.redis.hset(job.keys.money, "cap", int(per_request * 4.5) + 1_000)
    stage.redis.hset(job.keys.money, "spent", 1_000)
    job.step(names.BATCH_CREATE, first)
    sent = job.shard(first)
    assert (sent.state, job.meta("paused")) == ("in_progress", "")
    assert sent.requests == 4
    assert waiting(job) == others[1:]
