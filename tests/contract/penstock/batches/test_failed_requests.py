"""The failed requests of an ended job, sent again as a new job: real steps and a real client."""

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from penstock import AsyncClient, Client
from penstock.batches.failed_requests import release_retry, reserve_retry
from penstock.batches.submission import Submission
from penstock.cli import cli
from penstock.errors import InvalidRequest, NotEnded
from penstock.ids import created_ms, new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from tests.contract.tasks.batches.batch_stage import BatchStage, StagedJob


@pytest.fixture
def stage(penstock_redis: EmbeddedRedis, quiet_simulator: Control) -> Iterator[BatchStage]:
    quiet_simulator.reset()
    stage = BatchStage(penstock_redis, quiet_simulator, shard_requests=10)
    yield stage
    stage.redis.flushdb()
    stage.close()


@pytest.fixture
def client(stage: BatchStage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client that sends no messages: the tests run the steps."""
    monkeypatch.setattr("penstock.queue.wakeups.WakeUps.batch", lambda *_: None)
    settings = stage.settings
    with Client(settings.redis_url.get_secret_value(), key_prefix=settings.key_prefix) as client:
        yield client


def ended(stage: BatchStage, *texts: str, **options: Any) -> StagedJob:
    """A job whose batches are collected without a retry."""
    job = stage.sent(*texts, **options)
    for shard in job.shards():
        job.put(job.shard(shard.number).evolve(round=9))
        job.collect(shard.number)
        job.finish(shard.number)
    assert job.meta("state") == "done"
    return job


def requests_of(job: StagedJob) -> dict[str, Any]:
    """The params of each request of a job that is not sent yet, by custom_id."""
    found = {}
    for shard in job.shards():
        params = job.lines(shard.request_chunk_name, shard.request_chunks)
        for id_line, line in zip(job._ids(shard), params, strict=True):
            found[id_line.split(b" ")[1].decode()] = orjson.loads(line)
    return found


def test_the_failed_requests_of_a_job_become_a_job_with_the_same_custom_ids(
    stage: BatchStage, client: Client
) -> None:
    texts = ["a", "b [[sim errored=invalid_request_error first=1]]", "c [[sim expired first=1]]"]
    job = ended(stage, *texts, "d [[sim errored=api_error]]", betas=["x-1"])
    assert len(job.results()) == 4
    before = job.results()
    retry = client.messages.batches.retry_failed(job.id, max_cost_usd=3)
    again = StagedJob(stage, retry.id)
    assert {id: body["messages"][0]["content"] for id, body in requests_of(again).items()} == {
        "r-1": texts[1],
        "r-2": texts[2],
        "r-3": "d [[sim errored=api_error]]",
    }
    assert retry.retry_of == job.id
    assert again.shard().betas == ("x-1",)
    assert retry.budget is not None
    again.send()
    again.put(again.shard().evolve(round=9))
    again.collect()
    again.finish()
    assert {id: line["type"] for id, line in again.results().items()} == {
        "r-1": "succeeded",
        "r-2": "succeeded",
        "r-3": "errored",
    }
    old = client.messages.batches.retrieve(job.id)
    assert job.results() == before
    assert (old.retried_by, old.unsuccessful) == (retry.id, 3)
    assert old.errors == {"invalid_request_error": 1, "api_error": 1}


def test_a_job_is_retried_once(stage: BatchStage, client: Client) -> None:
    job = ended(stage, "a", "b [[sim errored=invalid_request_error]]")
    retry = client.messages.batches.retry_failed(job.id)
    with pytest.raises(InvalidRequest, match=retry.id):
        client.messages.batches.retry_failed(job.id)


def test_a_retry_that_was_not_recorded_can_be_repeated(
    stage: BatchStage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended(stage, "a", "b [[sim errored=invalid_request_error]]")

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as failing:
        failing.setattr("penstock.batches.client.Submission.spool", fail)
        with pytest.raises(MemoryError):
            client.messages.batches.retry_failed(job.id)
    assert job.meta("retried_by") == ""
    # A program that died at the same place: the next one must be sure that it did.
    stage.redis.hset(job.keys.meta, "retried_by", "0190a5b0-0000-7000-8000-000000000001")
    assert client.messages.batches.retry_failed(job.id).request_counts.total == 1


def test_a_retry_that_was_taken_over_is_not_recorded(
    stage: BatchStage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that still stores requests after an hour: the next one has sent them by then."""
    job = ended(stage, "a", "b [[sim errored=invalid_request_error]]")
    others = list[str]()
    spool = Submission.spool

    def slow(self: Submission, requests: Any) -> None:
        spool(self, requests)
        with monkeypatch.context() as later:
            later.setattr("penstock.batches.client.Submission.spool", spool)
            later.setattr("penstock.batches.failed_requests._GIVEN_UP_MS", 0)
            others.append(client.messages.batches.retry_failed(job.id).id)

    with monkeypatch.context() as slowed:
        slowed.setattr("penstock.batches.client.Submission.spool", slow)
        with pytest.raises(InvalidRequest, match="were sent again as job"):
            client.messages.batches.retry_failed(job.id)
    assert [other.decode() for other in stage.redis.zrange(stage.settings.keys.jobs, 0, -1)] == [
        job.id,
        *others,
    ]
    assert [job.meta("retried_by")] == others


def test_one_of_two_programs_takes_over_a_retry_that_was_given_up(
    stage: BatchStage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended(stage, "a", "b [[sim errored=invalid_request_error]]")
    keys, first, second = stage.settings.keys, new_id(), new_id()
    stage.redis.hset(job.keys.meta, "retried_by", "0190a5b0-0000-7000-8000-000000000001")

    def while_another_takes_over(id: str) -> int:
        monkeypatch.undo()
        reserve_retry(stage.redis, keys, job.id, first)
        return created_ms(id)

    monkeypatch.setattr("penstock.batches.failed_requests.created_ms", while_another_takes_over)
    with pytest.raises(InvalidRequest, match="another program"):
        reserve_retry(stage.redis, keys, job.id, second)
    assert job.meta("retried_by") == first
    release_retry(stage.redis, keys, job.id, second)
    assert job.meta("retried_by") == first


def test_the_command_names_the_number_of_failed_requests_that_are_not_stored(
    stage: BatchStage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of the version before did not keep them."""
    errored = "[[sim errored=invalid_request_error]]"
    job = ended(stage, f"a {errored}", f"b {errored}", shard_requests=1)
    job.put(job.shard(0).evolve(failed_requests="", failed_chunks=0))
    monkeypatch.setenv("PENSTOCK_REDIS_URL", stage.settings.redis_url.get_secret_value())
    monkeypatch.setenv("PENSTOCK_KEY_PREFIX", stage.settings.key_prefix)
    found = CliRunner().invoke(cli, ["batch", "retry-failed", job.id])
    assert found.exit_code == 0
    assert "submitted 1 request again" in found.stderr
    assert f"1 failed request of {job.id} could not be sent again" in found.stderr


def test_the_requests_of_a_canceled_job_are_retried(stage: BatchStage, client: Client) -> None:
    job = stage.submit("a", "b")
    job.cancel()
    job.step("penstock.batch.create")
    job.finish()
    retry = client.messages.batches.retry_failed(job.id)
    assert sorted(requests_of(StagedJob(stage, retry.id))) == ["r-0", "r-1"]


def test_only_an_ended_job_with_failed_requests_is_retried(
    stage: BatchStage, client: Client
) -> None:
    running = stage.submit("a")
    with pytest.raises(NotEnded):
        client.messages.batches.retry_failed(running.id)
    good = ended(stage, "a")
    with pytest.raises(InvalidRequest, match="no failed request"):
        client.messages.batches.retry_failed(good.id)
    assert good.chunks() == {"ids-0", good.shard().results}


def test_an_async_client_retries_failed_requests(stage: BatchStage, client: Client) -> None:
    job = ended(stage, "a", "b [[sim errored=invalid_request_error]]")

    async def retry() -> str:
        settings = stage.settings
        url = settings.redis_url.get_secret_value()
        async with AsyncClient(url, key_prefix=settings.key_prefix) as other:
            return (await other.messages.batches.retry_failed(job.id)).id

    assert sorted(requests_of(StagedJob(stage, asyncio.run(retry())))) == ["r-1"]


def test_a_deleted_job_leaves_no_failed_requests(stage: BatchStage, client: Client) -> None:
    job = ended(stage, "a", "b [[sim errored=invalid_request_error]]")
    assert job.shard().failed_requests in job.chunks()
    client.messages.batches.delete(job.id)
    assert job.chunks() == set()
