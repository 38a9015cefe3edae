"""Poll, collect and finish on a real Redis and the simulator: all results are stored, or none."""

from pathlib import Path

import orjson
import pytest

from penstock import events
from penstock.batches.shard import Counts
from penstock.errors import SpoolUnavailable
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from tasks.batches.step_result import JobEnded, Next, RetryIn, ShardDone
from tests.contract.jobs import expect
from tests.contract.tasks.batches.batch_stage import BatchStage


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
    assert job.chunks() == {"ids-0", shard.results, shard.failed_requests}
    for name in (shard.results, shard.failed_requests):
        assert 0 < stage.redis.ttl(job.keys.chunks(name)) <= 50
    [failed] = job.lines(shard.failed_requests, shard.failed_chunks)
    assert failed.startswith(b'1 {"model":')


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


def test_a_canceled_job_without_a_succeeded_request_ends_as_canceled(stage: BatchStage) -> None:
    job = stage.sent("a [[sim canceled]]")
    job.cancel()
    job.collect()
    job.finish()
    assert job.meta("state") == "canceled"


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
        *(child.id_chunk_name, child.results),
    }
    stage.redis.flushdb()
    stage.close()
