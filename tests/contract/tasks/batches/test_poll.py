"""The poll step against a real simulator: it never gives up a batch that is paid for."""

from collections.abc import Iterator

import anthropic
import httpx2
import orjson
import pytest

from penstock.batches.jobs import JobRecords
from penstock.batches.shard import Counts
from penstock.clock import now_ms
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue import names
from penstock.simulator.control import Control
from tasks.api.batches import BatchesApi
from tasks.batches.step_result import JobEnded, Next, Parked, Redirect, RetryIn
from tasks.batches.steps import BatchSteps
from tasks.batches.transient_404 import TRANSIENT_MS
from tests.contract.jobs import expect
from tests.contract.tasks.batches.batch_stage import BatchStage


@pytest.fixture
def stage(penstock_redis: EmbeddedRedis, penstock_control: Control) -> Iterator[BatchStage]:
    penstock_control.configure(batch_seconds=600)
    stage = BatchStage(penstock_redis, penstock_control)
    yield stage
    stage.redis.flushdb()
    stage.close()


def for_minutes() -> dict[str, int]:
    """The fields of a shard whose batch the API has not known for some minutes."""
    return {"created_ms": now_ms() - 3_600_000, "not_found_ms": now_ms() - TRANSIENT_MS}


def test_a_batch_that_the_api_knows_again_is_polled_as_before(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    job.put(job.shard().evolve(created_ms=now_ms() - 124_000))
    stage.control.fault(status=404, times=3, path="/v1/messages/batches/*")
    waits = [expect(RetryIn, job.poll()).seconds for _ in range(3)]
    assert waits == sorted(waits), "the interval grows"
    assert job.shard().not_found_ms > 0
    assert "in_progress" in expect(RetryIn, job.poll()).reason
    assert (job.shard().not_found_ms, job.shard().failures) == (0, 0)
    assert job.meta("paused") == ""


def test_a_404_for_the_list_is_retried_for_some_minutes(stage: BatchStage) -> None:
    job = stage.submit("a")
    stage.control.fault(status=404, times=0, method="GET", path="/v1/messages/batches")
    for _ in range(3):
        assert isinstance(job.step(names.BATCH_CREATE), RetryIn)
    job.put(job.shard().evolve(not_found_ms=now_ms() - TRANSIENT_MS))
    assert isinstance(job.step(names.BATCH_CREATE), Parked)
    assert orjson.loads(job.meta("paused"))["type"] == "not_found_error"
    stage.control.clear_faults()
    JobRecords(stage.redis, stage.settings).resume(job.id, "me")
    assert isinstance(job.step(names.BATCH_CREATE), Next)


def test_a_404_for_a_create_call_pauses_the_job_at_once(stage: BatchStage) -> None:
    job = stage.submit("a")
    stage.control.fault(status=404, method="POST", path="/v1/messages/batches")
    assert isinstance(job.step(names.BATCH_CREATE), Parked)


def test_a_batch_in_progress_is_polled_again(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    batch_id = job.shard().batch_id
    job.put(job.shard().evolve(created_ms=now_ms() - 40 * 60_000, failures=3))
    step = job.poll()
    assert isinstance(step, RetryIn)
    assert step.reason == f"{batch_id} is in_progress, 40 min old"
    assert 100 < step.seconds < 140
    assert (job.shard().state, job.shard().polls, job.shard().failures) == ("in_progress", 1, 0)
    assert stage.redis.hget(job.keys.claims, "0:due") is not None


def test_an_ended_batch_releases_its_slot(stage: BatchStage) -> None:
    job = stage.sent("a")
    step = job.poll()
    assert isinstance(step, Next)
    assert job.shard().state == "ended"
    assert job.shard().ended_ms > 0
    assert stage.redis.hlen(stage.settings.keys.active_batches) == 0
    assert job.events()[-1]["step"] == "poll"


def test_api_errors_are_retried_without_a_limit(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    stage.control.fault(status=529, times=0, path="/v1/messages/batches/*")
    for count in range(1, 31):
        step = job.poll()
        assert isinstance(step, RetryIn)
        assert job.shard().failures == count
    assert job.shard().state == "in_progress"
    assert job.meta("paused") == ""
    stage.control.clear_faults()
    job.poll()
    assert job.shard().failures == 0


def test_an_html_page_in_place_of_a_batch_counts_as_an_api_error(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    page = httpx2.MockTransport(lambda _: httpx2.Response(200, html="<html>Log in</html>"))
    with anthropic.Anthropic(api_key="k", http_client=httpx2.Client(transport=page)) as api:
        steps = BatchSteps(stage.settings, api)
        with job.claimed() as work:
            step = steps.run(names.BATCH_POLL, work)
    assert "unexpected_response" in expect(RetryIn, step).reason
    assert (job.shard().state, job.shard().failures) == ("in_progress", 1)


def test_a_canceled_job_cancels_its_batch_at_the_api_once(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    job.put(job.shard().evolve(created_ms=now_ms() - 3_600_000))
    job.cancel()
    for _ in range(3):
        step = job.poll()
        assert isinstance(step, RetryIn)
        assert "canceling" in step.reason
        assert step.seconds < 10, "the interval depends on the time since the cancel"
    assert stage.control.stats()["batches_canceled"] == 1


def test_a_batch_that_the_api_does_not_know_pauses_the_job(stage: BatchStage) -> None:
    job = stage.submit("a")
    job.bind(0, "msgbatch_gone")
    job.put(job.shard().evolve(created_ms=now_ms() - 3_600_000))
    assert isinstance(job.poll(), RetryIn), "it may know the batch in a moment"
    first_ms = job.shard().not_found_ms
    assert isinstance(job.poll(), RetryIn)
    assert job.shard().not_found_ms == first_ms
    assert job.meta("paused") == ""
    job.put(job.shard().evolve(not_found_ms=first_ms - TRANSIENT_MS))
    step = job.poll()
    assert isinstance(step, Parked)
    assert orjson.loads(job.meta("paused"))["type"] == "batch_not_found"
    job.cancel()
    # A canceled job cannot be resumed, but to believe the API at once could lose paid results.
    for _ in range(9):
        assert expect(RetryIn, job.poll()).seconds
    job.poll()
    assert job.shard().state == "collected"
    assert stage.redis.hlen(stage.settings.keys.active_batches) == 0
    assert job.shard().uniform_result is not None
    assert isinstance(job.finish(), JobEnded)
    assert job.meta("state") == "done" or job.meta("state") == "canceled"


def test_a_batch_that_the_api_does_not_show_yet_is_polled_again(stage: BatchStage) -> None:
    job = stage.submit("a")
    job.bind(0, "msgbatch_new")
    job.cancel()
    job.put(job.shard().evolve(not_found_count=20))
    step = job.poll()
    assert expect(RetryIn, step).seconds
    assert job.shard().state == "in_progress"
    assert job.meta("paused") == ""


def test_a_canceled_job_with_a_rejected_key_is_polled_with_a_countdown(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    stage.control.fault(status=401, times=0, path="/v1/messages/batches/*")
    assert isinstance(job.poll(), Parked)
    job.cancel()
    step = job.poll()
    assert isinstance(step, RetryIn)
    assert step.seconds > 0


def test_a_resumed_job_continues_without_a_batch_that_the_api_does_not_know(
    stage: BatchStage,
) -> None:
    job = stage.submit("a", "b", shard_requests=1)
    job.bind(0, "msgbatch_gone")
    job.put(job.shard().evolve(**for_minutes(), workspace="of/another"))
    assert isinstance(job.poll(), Parked)
    assert isinstance(job.poll(), Parked), "a parked shard is polled once a day"
    assert job.shard().not_found_count == 1
    JobRecords(stage.redis, stage.settings).resume(job.id, "me")
    for _ in range(9):
        assert expect(RetryIn, job.poll()).seconds
    step = job.poll()
    assert (expect(Parked, step).pause or {})["type"] == "other_workspace", (
        "another workspace does not know the batch"
    )

    job.put(job.shard().evolve(workspace=BatchesApi(stage.api, {}).newest().workspace))
    JobRecords(stage.redis, stage.settings).resume(job.id, "me")
    job.poll()
    shard = job.shard()
    assert (shard.state, shard.counts, shard.errors) == (
        "collected",
        Counts(errored=1),
        {"batch_not_found": 1},
    )
    assert job.meta("paused") == ""
    assert orjson.loads(job.meta("error"))["type"] == "batch_not_found"


def test_an_unconfirmed_batch_that_does_not_exist_is_searched_for_again(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    ours = job.shard().batch_id
    job.bind(0, "msgbatch_deleted", confirmed=False)
    workspace = BatchesApi(stage.api, {}).newest().workspace
    job.put(job.shard().evolve(**for_minutes(), workspace=workspace))
    step = job.poll()
    assert expect(RetryIn, step).seconds == stage.settings.list_consistency_s
    shard = job.shard()
    assert (shard.step, shard.batch_id, shard.rejected) == (names.BATCH_CREATE, "", ())
    assert job.meta("paused") == ""
    assert isinstance(job.poll(), Redirect)
    assert isinstance(job.step(names.BATCH_CREATE), Next)
    assert job.shard().batch_id == ours


def test_results_of_a_paused_job_raise_an_alert_before_they_expire(stage: BatchStage) -> None:
    job, day_ms = stage.sent("a", ended=False), 86_400_000
    stage.control.fault(status=401, times=0, path="/v1/messages/batches/*")
    job.put(job.shard().evolve(created_ms=now_ms() - 10 * day_ms))
    assert isinstance(job.poll(), Parked)
    assert job.meta("alert") == ""
    paused, live = job.meta("paused"), stage.settings.keys.live_shards
    in_ms = stage.redis.zscore(live, f"{job.id}/0") - now_ms()
    assert day_ms - 60_000 < in_ms < day_ms + 60_000

    job.put(job.shard().evolve(created_ms=now_ms() - 23 * day_ms))
    assert isinstance(job.poll(), Parked)
    assert orjson.loads(job.meta("alert"))["type"] == "results_expire"
    assert job.meta("paused") == paused, "the first reason stays"

    job.put(job.shard().evolve(created_ms=now_ms() - 31 * day_ms))
    assert isinstance(job.poll(), Parked)
    assert stage.redis.zscore(live, f"{job.id}/0") is None


def test_the_headers_of_the_job_are_sent_with_every_call(stage: BatchStage) -> None:
    """If one of them names a workspace, only that workspace shows the batch."""
    job = stage.sent("a", headers={"anthropic-workspace-id": "wrkspc_1"})
    job.collect()
    batch = f"/v1/messages/batches/{job.shard().batch_id}"  # workers may ask for other batches
    asked = [each for each in stage.control.requests() if each["path"].startswith(batch)]
    assert {each["path"] for each in asked} == {batch, f"{batch}/results"}
    assert {each["headers"]["anthropic-workspace-id"] for each in asked} == {"wrkspc_1"}


def test_the_ttls_of_the_chunks_of_a_long_job_are_refreshed(stage: BatchStage) -> None:
    job = stage.sent("a", ended=False)
    keys = [job.keys.chunks(name) for name in ("requests-0", "ids-0")]
    for key in keys:
        stage.redis.expire(key, 5)
    job.poll()
    assert all(stage.redis.ttl(key) <= 5 for key in keys), "not yet due"
    stage.redis.hset(job.keys.meta, "created_ms", now_ms() - 200_000)
    job.poll()
    assert all(stage.redis.ttl(key) > 900 for key in keys)
    assert int(job.meta("kept_ms")) > 0


def test_a_poll_step_leaves_a_collected_shard_unchanged(stage: BatchStage) -> None:
    job = stage.sent("a")
    job.collect()
    before = job.shard()
    assert isinstance(job.step(names.BATCH_POLL), Next)
    assert job.shard() == before
