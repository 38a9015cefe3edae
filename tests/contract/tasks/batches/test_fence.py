"""Two collectors of one shard, and a Redis that fails: no results are lost, mixed or left over."""

import threading
from typing import Any

import pytest
import redis

from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue import names
from penstock.simulator.control import Control
from penstock.spool.chunks import ChunkMissing, RedisChunkStore
from tasks.batches.claim import Fenced
from tasks.batches.collect.staging import Staging
from tasks.batches.step_result import Next, RetryIn
from tests.contract.tasks.batches.batch_stage import BatchStage


def test_of_two_collectors_only_the_results_of_the_later_count(stage: BatchStage) -> None:
    job = stage.sent("a", "b [[sim expired]]")
    job.poll()
    with job.claimed(worker="slow") as slow:
        stage.redis.delete(job.keys.shard_lease(0))  # as if the worker had been frozen
        with job.claimed(worker="quick") as quick:
            with pytest.raises(Fenced):
                stage.steps.run(names.BATCH_COLLECT, slow)
            assert job.chunks() == {"requests-0", "ids-0"}, "the fenced collector cleans up"
            stage.steps.run(names.BATCH_COLLECT, quick)
    shard, child = job.shards()
    assert shard.results == f"results-0-{quick.lease.epoch}" != f"results-0-{slow.lease.epoch}"
    assert job.chunks() == {
        *("ids-0", shard.results),
        *(child.request_chunk_name, child.id_chunk_name),
    }
    assert job.meta("left") == "1"
    assert sorted(job.results()) == ["r-0"]


def test_a_fenced_collector_stops_during_its_download(
    penstock_redis: EmbeddedRedis, penstock_control: Control
) -> None:
    """Otherwise it would store the results of a whole batch for nothing."""
    stage = BatchStage(penstock_redis, penstock_control, lease_ms=500)
    job = stage.sent("a", "b")
    job.poll()
    stored: list[str] = []
    with job.claimed(worker="slow") as slow:
        work: Any = slow
        checks: list[bool] = []
        check = slow.lease.renew

        def counted() -> None:
            checks.append(threading.current_thread() is threading.main_thread())
            check()

        work.lease.renew = counted
        work.lease.stop_renewing()  # as if its thread were frozen
        stage.redis.set(job.keys.shard_lease(0), "other:99")
        stage.redis.hset(job.keys.claims, "0", "99 other")
        stage.control.fault(chunk=200_000, slow_first=1.0, path="*/results")
        with pytest.raises(Fenced):
            stage.steps.run(names.BATCH_COLLECT, slow)
        assert checks == [True]
        stored = sorted(job.chunks())
    assert stored == ["ids-0", "requests-0"]
    stage.redis.flushdb()
    stage.close()


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), ChunkMissing("gone")])
def test_a_spool_that_fails_during_a_collect_leaves_no_results(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job = stage.sent(*[f"{place} [[sim text={'x' * 70_000}]]" for place in range(12)])
    job.poll()
    add = RedisChunkStore.add

    def failing(store: RedisChunkStore, name: str, index: int, chunk: bytes) -> None:
        if index == 1:
            raise error
        add(store, name, index, chunk)

    monkeypatch.setattr(RedisChunkStore, "add", failing)
    with job.claimed() as work:
        try:
            step = stage.steps.run(names.BATCH_COLLECT, work)
        except redis.ConnectionError:
            assert isinstance(error, redis.ConnectionError)
        else:
            assert isinstance(step, RetryIn), "it is counted as an error that no step foresees"
            assert job.shard().step_errors == 1
    assert job.shard().state == "ended"
    assert job.chunks() == {"requests-0", "ids-0"}
    monkeypatch.undo()
    job.collect()
    assert len(job.results()) == 12
    assert job.shard().result_chunks > 1


def test_staged_chunks_of_a_killed_collector_expire_soon(stage: BatchStage) -> None:
    job = stage.sent("a")
    job.poll()
    with job.claimed() as work:
        staging = Staging(work)
        staging.store.add(staging.results, 0, b"chunk")
        assert 0 < stage.redis.ttl(job.keys.chunks(staging.results)) <= 3_600
    stage.redis.expire(job.keys.chunks("ids-0"), 5_000)
    job.collect()
    assert 900 < stage.redis.ttl(job.keys.chunks(job.shard().results)) <= 1_000


def test_a_commit_whose_reply_is_lost_keeps_its_results(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stage.sent("a", "b [[sim expired]]")
    job.poll()
    with job.claimed() as work:
        write: Any = work._write

        def lost(call: Any) -> Any:
            write(call)
            raise redis.TimeoutError("no answer")

        monkeypatch.setattr(work, "_write", lost)
        with pytest.raises(redis.TimeoutError):
            stage.steps.run(names.BATCH_COLLECT, work)
        monkeypatch.undo()
    assert job.meta("left") == "1"
    assert isinstance(job.collect(), Next)
    assert sorted(job.results()) == ["r-0"]
    job.send(1)
    job.collect(1)
    assert job.meta("left") == "1"
    assert len(job.shards()) == 3
