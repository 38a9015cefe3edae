"""Jobs as both clients see them, over a real Redis; workers are played by hand."""

import asyncio
import threading
from itertools import islice
from typing import Any

import orjson
import pytest

from penstock.async_client import AsyncClient
from penstock.batches.client import Batches
from penstock.batches.shard import Counts, ShardState
from penstock.batches.view import Batch, Budget
from penstock.client import Client
from penstock.errors import InvalidRequest, NotEnded, NotFound, RedisUnavailable
from penstock.events import END, PAUSED, PROGRESS, QUEUED, RESUMED
from penstock.ids import new_id
from penstock.local.processes import free_port
from penstock.states import State
from penstock.testing import wait_until
from tests.connections import redis_of
from tests.contract.penstock.batches.blocking import BlockingBatches
from tests.contract.penstock.batches.collecting import collect_all
from tests.contract.tasks.batches.hand_made import MODEL, HandMadeJob
from tests.scripted import TIMEOUT_S


def test_a_job_has_the_fields_of_the_sdks_message_batch_and_more(
    batches: Batches, job: HandMadeJob
) -> None:
    fresh = batches.retrieve(job.id)
    count = len(fresh.shards)
    assert (fresh.type, fresh.processing_status) == ("message_batch", "in_progress")
    assert (fresh.state, fresh.model) == (State.QUEUED, MODEL)
    assert fresh.request_counts == Counts(processing=10)
    assert (fresh.ended_at, fresh.cancel_initiated_at, fresh.results_url) == (None, None, None)
    assert (fresh.paused, fresh.alert, fresh.waiting_for_canary, fresh.cost) == (
        None,
        None,
        False,
        None,
    )
    job.begin(0)
    job.collect(1, retried=[0])
    running = batches.retrieve(job.id)
    assert (running.state, running.progress.active) == (State.RUNNING, 1)
    assert (running.progress.shards, running.progress.collected) == (count + 1, 1)
    assert (running.progress.ended, running.progress.rounds) == (1, 1)
    final = running.shards[1].requests - 1
    assert running.request_counts == Counts(processing=10 - final, succeeded=final)
    assert running.usage == {"input_tokens": 3 * final}
    assert running.usage_by_model == {MODEL: {"input_tokens": 3 * final}}


def test_requests_of_an_ended_batch_are_processing_until_its_results_are_collected(
    batches: Batches, job: HandMadeJob
) -> None:
    with job.claim(0) as work:
        counts = Counts(succeeded=work.shard.requests)
        work.advance("poll", work.shard.evolve(state=ShardState.ENDED, counts=counts))
        work.release(countdown_s=1)
    found = batches.retrieve(job.id)
    assert found.request_counts == Counts(processing=10)
    assert (found.progress.ended, found.progress.collected) == (1, 0)


def test_a_job_is_paused_and_resumed(batches: Batches, job: HandMadeJob) -> None:
    job.pause(0)
    job.alert(1)
    found = batches.retrieve(job.id)
    assert found.paused is not None
    assert (found.paused.type, found.paused.message) == ("billing_error", "no credit")
    assert found.paused.since >= found.created_at
    assert found.alert is not None
    assert (found.alert.type, found.alert.message) == ("duplicate_batch", "check it")
    with pytest.raises(TimeoutError):
        batches.wait(job.id, timeout=0.05)
    assert batches.resume(job.id, who="me").paused is None
    assert batches.resume(job.id).paused is None  # a job that is not paused stays as it is
    first = islice(batches.events(job.id, timeout=TIMEOUT_S), 4)
    kinds = [event.type for event in first]
    assert (kinds[0], kinds[1], kinds[3]) == (QUEUED, PAUSED, RESUMED)
    with pytest.raises(NotFound):
        batches.resume(new_id())


def test_a_job_that_has_reached_its_cost_cap_is_resumed_with_a_new_one(
    client: Client, batches: Batches, job: HandMadeJob
) -> None:
    money = job.keys.money
    with pytest.raises(InvalidRequest, match="the job was submitted without a cost cap"):
        batches.resume(job.id, max_cost_usd=3)
    assert not redis_of(client).exists(money)
    redis_of(client).hset(
        money, mapping={"cap": 2_000_000, "spent": 1_500_000, "reserved:3": 400_000}
    )
    redis_of(client).expire(money, 100)
    job.pause(0, "cost_limit", "no money left")
    assert batches.retrieve(job.id).budget == Budget(2.0, 1.5, 0.4)
    resumed = batches.resume(job.id, max_cost_usd=3.25)
    assert (resumed.paused, resumed.budget) == (None, Budget(3.25, 1.5, 0.4))
    for amount in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="max_cost_usd: "):
            batches.resume(job.id, max_cost_usd=amount)
    with pytest.raises(NotFound):
        batches.resume(new_id(), max_cost_usd=1)


def test_a_job_that_is_being_canceled_has_the_time_of_the_call(
    batches: Batches, job: HandMadeJob
) -> None:
    job.pause(0)
    found = batches.cancel(job.id, who="me")
    assert (found.processing_status, found.paused) == ("canceling", None)
    assert found.cancel_initiated
    assert found.cancel_initiated_at is not None
    assert found.cancel_initiated_at >= found.created_at


def test_waiting_reports_every_event_and_returns_when_the_job_ends(
    batches: Batches, job: HandMadeJob
) -> None:
    seen, last = list[Batch](), list[Batch]()

    def wait() -> None:
        last.append(batches.wait(job.id, seen.append))

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: seen)
    job.collect(0, retried=[0])
    wait_until(lambda: seen[-1].progress.collected == 1)
    assert seen[-1].shards == job.shards  # with the retry shard that was added
    job.pause(1)
    wait_until(lambda: seen[-1].paused)
    batches.resume(job.id)
    wait_until(lambda: not seen[-1].paused)
    job.end(cost=orjson.dumps({"currency": "USD", "batch": 1.0, "live": 2.0}))
    waiting.join(TIMEOUT_S)
    assert last == [batches.retrieve(job.id)] == seen[-1:]
    assert last[0].cost == {"currency": "USD", "batch": 1.0, "live": 2.0}
    for timeout in (None, TIMEOUT_S):
        assert batches.wait(job.id, timeout=timeout) == last[0]  # an ended job is returned at once
    assert batches.estimate(last[0]) is None


@pytest.mark.parametrize("timeout", [None, TIMEOUT_S])
def test_waiting_misses_no_event_while_its_callback_runs(
    batches: Batches, job: HandMadeJob, timeout: float | None
) -> None:
    seen: list[int] = []

    def work(batch: Batch) -> None:
        seen.append(batch.progress.collected)
        if len(seen) == 1:
            job.collect(0, retried=[0])
            job.collect(1)
        elif batch.progress.collected == 2 and not batch.state.ended:
            for shard in job.shards[2:]:
                job.collect(shard.number)
            job.end()

    last = batches.wait(job.id, work, timeout=timeout)
    assert last == batches.retrieve(job.id)
    assert last.progress.collected == len(last.shards)


def test_waiting_times_out_and_the_job_continues(batches: Batches, job: HandMadeJob) -> None:
    job.begin(0)
    with pytest.raises(TimeoutError, match=job.id):
        batches.wait(job.id, lambda _: None, timeout=0.05)
    assert batches.retrieve(job.id).state is State.RUNNING
    with pytest.raises(NotFound):
        batches.wait(new_id())


def test_events_are_read_from_a_cursor_on(batches: Batches, job: HandMadeJob) -> None:
    collect_all(job)
    whole = list(batches.events(job.id))
    assert {event.type for event in whole} == {QUEUED, PROGRESS, END}
    assert list(batches.events(job.id, after=str(whole[2].cursor))) == whole[3:]


def test_an_estimate_needs_a_history(client: Client, batches: Batches, job: HandMadeJob) -> None:
    assert batches.estimate(batches.retrieve(job.id)) is None
    history = client.settings.keys.history
    for ms in (60_000, 120_000, 180_000):
        past = {"model": MODEL, "requests": 4, "ms": ms}
        redis_of(client).lpush(history, orjson.dumps(past))
    redis_of(client).expire(history, 100)
    estimate = batches.estimate(batches.retrieve(job.id))
    assert estimate is not None
    assert 60 <= estimate.median_s <= estimate.high_s <= 180
    job.pause(0)
    assert batches.estimate(batches.retrieve(job.id)) is None


def test_a_list_of_jobs_has_pages_as_the_sdks_list(client: Client, batches: Batches) -> None:
    made = [HandMadeJob(client, 1).id for _ in range(5)][::-1]
    page = batches.list(limit=2)
    assert [job.id for job in page.data] == made[:2]
    assert (page.first_id, page.last_id, page.has_more) == (made[0], made[1], True)
    assert page.has_next_page()
    assert [job.id for job in page.get_next_page().data] == made[2:4]
    assert [job.id for job in page] == made
    older = batches.list(limit=3, after_id=made[1])
    assert ([job.id for job in older.data], older.has_more) == (made[2:], False)
    newer = batches.list(limit=2, before_id=made[3])
    assert ([job.id for job in newer.data], newer.has_more) == (made[1:3], True)
    assert [job.id for job in newer.get_next_page().data] == made[:1]
    assert not batches.list(after_id=made[-1]).has_next_page()


def test_a_list_of_jobs_is_iterated_while_its_jobs_are_deleted(
    client: Client, batches: Batches
) -> None:
    jobs = [HandMadeJob(client, 1) for _ in range(5)]
    for job in jobs:
        job.end()
    gone = []
    for each in batches.list(limit=2):
        batches.delete(each.id)
        gone.append(each.id)
    assert gone == [job.id for job in jobs][::-1]
    assert batches.list().data == []


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_of_jobs_with_an_invalid_size_or_cursor_is_refused(
    batches: Batches, limit: int
) -> None:
    with pytest.raises(InvalidRequest, match="limit: "):
        batches.list(limit=limit)
    with pytest.raises(InvalidRequest, match="before_id: "):
        batches.list(after_id=new_id(), before_id=new_id())
    with pytest.raises(NotFound, match="is not a valid id"):
        batches.list(after_id="*")


def test_only_an_ended_job_is_deleted_and_with_all_its_keys(
    client: Client, batches: Batches, job: HandMadeJob
) -> None:
    with pytest.raises(NotEnded, match="cancel it first"):
        batches.delete(job.id)
    collect_all(job)
    batches.delete(job.id)
    left = list(redis_of(client).scan_iter(f"*{job.id}*"))
    assert left == []
    assert redis_of(client).zscore(client.settings.keys.jobs, job.id) is None
    for call in (batches.retrieve, batches.delete, batches.wait):
        with pytest.raises(NotFound):
            call(job.id)
    with pytest.raises(NotFound):
        list(batches.results(job.id))


@pytest.mark.parametrize("kind", [Client, BlockingBatches])
def test_every_call_says_that_redis_is_unavailable(kind: Any) -> None:
    with kind(f"redis://127.0.0.1:{free_port()}/0") as client:
        batches, id = client.messages.batches if kind is Client else client, new_id()
        for call in (batches.retrieve, batches.wait, batches.delete, batches.resume):
            with pytest.raises(RedisUnavailable):
                call(id)
        with pytest.raises(RedisUnavailable):
            list(batches.results(id, wait=True))


def test_an_async_list_of_jobs_is_iterated_without_awaiting_a_page(client: Client) -> None:
    made = [HandMadeJob(client, 1).id for _ in range(3)][::-1]

    async def scenario() -> list[str]:
        url = client.settings.redis_url.get_secret_value()
        async with AsyncClient(url) as ours:
            return [job.id async for job in ours.messages.batches.list(limit=1)]

    assert asyncio.run(scenario()) == made
