"""A batch that is rejected as too large is split once its job is resumed, with real collects."""

from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest

from penstock import events
from penstock.batches.jobs import JobRecords
from penstock.batches.shard import Shard
from penstock.batches.wire import EMPTY_BODY_BYTES
from penstock.client import Client
from penstock.clock import now_ms
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue import names
from penstock.simulator.control import Control
from tasks.batches.claim import Fenced
from tasks.batches.create import size_locks, split
from tasks.batches.create.split import split_shard
from tasks.batches.step_result import JobEnded, Next, Parked
from tasks.batches.steps import BatchSteps
from tests.contract.jobs import expect
from tests.contract.tasks.batches.batch_stage import BatchStage, StagedJob

_opened: list["Gateway"] = []


@pytest.fixture(autouse=True)
def closed_gateways() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


class Gateway:
    """Rejects bodies of more than ``limit`` bytes with a page of HTML."""

    def __init__(self, stage: BatchStage, limit: int) -> None:
        self.limit = limit
        self.stage = stage
        self.sizes: list[int] = []

        def check(request: httpx2.Request) -> httpx2.Response:
            body = request.read()
            if request.method == "POST" and len(body) > self.limit:
                return httpx2.Response(413, html="<html><h1>413 Request Entity Too Large</h1>")
            if request.method == "POST":
                self.sizes.append(len(body))
            sent = httpx2.Request(
                request.method, request.url, headers=request.headers, content=body
            )
            return self._inner.handle_request(sent)

        self._inner = httpx2.HTTPTransport()
        client = httpx2.Client(transport=httpx2.MockTransport(check))
        self.steps = BatchSteps(stage.settings, stage.api.with_options(http_client=client))

        _opened.append(self)

    def close(self) -> None:
        """Close the connections to the API."""
        self._inner.close()

    def create(self, job: StagedJob, number: int = 0) -> object:
        self.stage.steps, before = self.steps, self.stage.steps
        try:
            return job.step(names.BATCH_CREATE, number)
        finally:
            self.stage.steps = before


def resume(job: StagedJob) -> None:
    JobRecords(job.stage.redis, job.stage.settings).resume(job.id, "me")


def planned(job: StagedJob) -> list[Shard]:
    return [shard for shard in job.shards() if shard.state == "planned"]


def finish(job: StagedJob) -> None:
    """Collect every batch and end the job."""
    for shard in job.shards():
        if shard.state == "in_progress":
            job.stage.control.end_batch(shard.batch_id)
            assert isinstance(job.collect(shard.number), Next)
    assert isinstance(job.finish(), JobEnded)


def test_a_gateway_that_rejects_a_body_pauses_the_job_with_size_and_setting(
    stage: BatchStage,
) -> None:
    job = stage.submit(*"abcdef", max_cost_usd=100.0)
    size = job.shard().size
    step = Gateway(stage, size - 1).create(job)
    assert isinstance(step, Parked)
    paused = orjson.loads(job.meta("paused"))
    assert (paused["type"], paused["status"]) == ("request_too_large", 413)
    assert f"{size:,} bytes, 6 requests" in paused["message"]
    assert "PENSTOCK_SHARD_BYTES" in paused["message"]
    assert job.shard().state == "planned"
    assert not stage.redis.hexists(job.keys.money, "reserved:0")
    assert stage.redis.hlen(stage.settings.keys.active_batches) == 0


def test_a_resumed_job_sends_the_shard_in_parts_that_keep_every_custom_id(
    stage: BatchStage, penstock_redis: EmbeddedRedis
) -> None:
    texts = [f"{place} " + "x" * (100 * (place % 3)) for place in range(11)]
    job = stage.submit(*texts)
    before = job.shard()
    gateway = Gateway(stage, before.size - 1)
    gateway.create(job)
    resume(job)
    assert isinstance(gateway.create(job), Next)
    for number in [shard.number for shard in planned(job)]:
        assert isinstance(gateway.create(job, number), Next)
    shards = job.shards()
    assert len(shards) > 1
    assert sum(shard.requests for shard in shards) == 11
    assert int(job.meta("left")) == len(shards)
    assert all(size <= before.size // 2 for size in gateway.sizes)
    assert gateway.sizes == [shard.size for shard in shards]
    assert sorted(shard.first for shard in shards)[0] == 0
    assert max(shard.last for shard in shards) == 10
    for model, sizes in before.size_by_model.items():
        parts = [shard.size_by_model[model] for shard in shards]
        assert [sum(each) for each in zip(*parts, strict=True)] == sizes
    assert before.request_chunk_name not in job.chunks()
    assert before.id_chunk_name not in job.chunks()
    finish(job)
    with Client(penstock_redis.url, key_prefix="stage") as client:
        batches = client.messages.batches
        done = batches.retrieve(job.id)
        assert (done.request_counts.succeeded, done.request_counts.total) == (11, 11)
        submitted = [line.custom_id for line in batches.results(job.id, order="submitted")]
        assert submitted == [f"r-{place}" for place in range(11)]
        assert {line.custom_id for line in batches.results(job.id)} == set(submitted)
    paid = stage.control.paid()
    assert [sum(each.values()) for each in paid.values()] == [1] * 11


def test_other_shards_of_the_same_size_are_split_without_a_further_rejection(
    stage: BatchStage,
) -> None:
    job = stage.submit(*(["text " * 40] * 9), shard_requests=4)
    sizes = [shard.size for shard in job.shards()]
    gateway = Gateway(stage, min(sizes[:2]) - 1)
    smaller = min(range(2), key=lambda number: sizes[number])
    assert isinstance(gateway.create(job, smaller), Parked)
    resume(job)
    for number in [0, 1, *(shard.number for shard in planned(job) if shard.number > 1)]:
        assert isinstance(gateway.create(job, number), Next)
    for shard in planned(job):
        assert isinstance(gateway.create(job, shard.number), Next)
    assert len({shard.number for shard in job.shards()}) == len(job.shards())
    finish(job)
    assert sorted(job.results()) == sorted(f"r-{place}" for place in range(9))


def test_each_resume_halves_what_is_still_too_large(stage: BatchStage) -> None:
    job = stage.submit(*(["text " * 40] * 16))
    gateway = Gateway(stage, job.shard().size // 5)
    resumes = 0
    while not isinstance(gateway.create(job), Next):
        resume(job)
        resumes += 1
    assert resumes == 2
    while planned(job):
        for shard in planned(job):
            assert isinstance(gateway.create(job, shard.number), Next)
    finish(job)
    assert sorted(job.results()) == sorted(f"r-{place}" for place in range(16))


def test_a_lower_setting_of_the_workers_is_the_limit_of_the_parts(
    penstock_redis: EmbeddedRedis, penstock_control: Control
) -> None:
    stage = BatchStage(penstock_redis, penstock_control)
    job = stage.submit(*(["text " * 40] * 12))
    size = job.shard().size
    Gateway(stage, size - 1).create(job)
    resume(job)
    stage.settings = stage.settings.model_copy(update={"shard_bytes": size // 6})
    gateway = Gateway(stage, size // 6)
    assert isinstance(gateway.create(job), Next)
    assert len(job.shards()) >= 6
    assert all(shard.size <= size // 6 for shard in job.shards())
    stage.redis.flushdb()
    stage.close()


def test_one_request_that_is_too_large_is_an_errored_result(stage: BatchStage) -> None:
    job = stage.submit("a", "b", shard_requests=1)
    gateway = Gateway(stage, EMPTY_BODY_BYTES)
    assert isinstance(gateway.create(job), Next)
    assert job.meta("paused") == ""
    shard = job.shard()
    assert (shard.state, shard.counts.errored) == ("collected", 1)
    assert shard.uniform_result is not None
    error = shard.uniform_result["error"]["error"]
    assert error["type"] == "request_too_large"
    assert "1 requests" in error["message"]
    assert stage.redis.hlen(stage.settings.keys.active_batches) == 0
    gateway.limit = 10**6
    assert isinstance(gateway.create(job, 1), Next)
    finish(job)
    assert job.meta("state") == "done"


def test_a_job_without_a_rejection_is_not_split(stage: BatchStage) -> None:
    job = stage.submit(*(["text " * 40] * 4))
    stage.settings = stage.settings.model_copy(update={"shard_bytes": 100})
    gateway = Gateway(stage, 10**6)
    assert isinstance(gateway.create(job), Next)
    assert [shard.requests for shard in job.shards()] == [4]


def test_the_event_of_a_split_shows_readers_the_new_shards(stage: BatchStage) -> None:
    job = stage.submit(*(["text " * 40] * 8))
    records = JobRecords(stage.redis, stage.settings)
    before = records.read(job.id)
    stage.redis.hset(job.keys.meta, "too_large", job.shard().size)
    with job.claimed() as work:
        split_shard(work)
    [(_, fields)] = stage.redis.xrevrange(job.keys.log, count=1)
    event = events.decode(fields[b"d"])
    assert (event.data["step"], event.data["state"]) == ("create", "planned")
    after = records.updated(before, event)
    assert after.shards == tuple(job.shards())
    assert len(after.shards) == 1 + len(event.data["new_shards"])
    assert after.counts == before.counts


def test_a_fenced_split_changes_nothing(stage: BatchStage) -> None:
    job = stage.submit(*(["text " * 40] * 4))
    before = job.shard()
    stage.redis.hset(job.keys.meta, "too_large", before.size)
    with job.claimed() as work:
        stage.redis.delete(job.keys.shard_lease(0))
        with job.claimed(worker="other"), pytest.raises(Fenced):
            split_shard(work)
    assert job.shards() == [before]
    assert before.request_chunk_name in job.chunks()
    staged = [name for name in job.chunks() if "split" in name]
    assert all(stage.redis.ttl(job.keys.chunks(name)) <= 3_600 for name in staged)


def test_a_split_does_not_bring_back_the_record_of_a_job_that_has_expired(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stage.submit(*"abcdef")
    stage.redis.hset(job.keys.meta, "too_large", job.shard().size)
    store = split._lines

    def expire_first(*args: Any) -> Any:
        stage.redis.delete(job.keys.meta)
        return store(*args)

    monkeypatch.setattr(split, "_lines", expire_first)
    with job.claimed() as work, pytest.raises(Fenced):
        split_shard(work)
    assert not stage.redis.exists(job.keys.meta)


def test_retry_shards_of_parts_have_numbers_of_their_own(stage: BatchStage) -> None:
    job = stage.submit(*(f"{place} [[sim expired first=1]]" for place in range(8)))
    gateway = Gateway(stage, job.shard().size - 1)
    gateway.create(job)
    resume(job)
    while planned(job):
        for shard in planned(job):
            gateway.create(job, shard.number)
            stage.control.end_batch(job.shard(shard.number).batch_id)
            job.put(job.shard(shard.number).evolve(created_ms=now_ms()))
            expect(Next, job.collect(shard.number))
    assert sum(shard.retried for shard in job.shards()) == 8
    assert sorted(job.results()) == sorted(f"r-{place}" for place in range(8))


def test_a_shard_that_is_split_keeps_no_lock_on_its_former_size(stage: BatchStage) -> None:
    """A worker had died before its call."""
    job = stage.submit(*(["text " * 40] * 6))
    stage.redis.hset(job.keys.meta, "too_large", job.shard().size)
    with job.claimed() as work:
        assert size_locks.acquire(work, "nonce")
    Gateway(stage, 10**6).create(job)
    assert job.shard().requests < 6
    assert not stage.redis.exists(stage.settings.keys.size_lock(6))


def test_parts_of_a_split_retry_shard_are_not_gathered_to_its_size(stage: BatchStage) -> None:
    texts = [f"{place} [[sim expired first=1]]" + " text" * 40 for place in range(12)]
    job = stage.sent(*texts)
    job.poll()
    job.put(job.shard().evolve(created_ms=job.shard().ended_ms))
    job.collect()
    retry = job.shard(1)
    gateway = Gateway(stage, retry.size - 1)
    assert isinstance(gateway.create(job, 1), Parked)
    resume(job)
    for _ in range(9):
        for shard in planned(job):
            assert isinstance(gateway.create(job, shard.number), Next)
    assert planned(job) == []
    assert max(gateway.sizes) <= retry.size // 2
    assert job.meta("splits") == str(len(job.shards()) - 2)
    finish(job)
    assert sorted(job.results()) == sorted(f"r-{place}" for place in range(12))
