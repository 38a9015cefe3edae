"""Jobs and their results as producers read them, over a real Redis; workers are played by hand."""

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest

from penstock.batches.shard import Counts
from penstock.batches.view import Batch, Budget
from penstock.client import Client
from penstock.errors import InvalidRequest, NotEnded, NotFound, RedisUnavailable
from penstock.events import END, PAUSED, PROGRESS, QUEUED, RESUMED
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import free_port
from penstock.states import State
from penstock.testing import wait_until
from tests.contract.tasks.batches.hand_made import MODEL, HandMadeJob
from tests.scripted import PATIENCE_S


@pytest.fixture
def client(penstock_redis: EmbeddedRedis) -> Iterator[Client]:
    """A client whose shards hold a few requests each, in a database of its own."""
    url = penstock_redis.url.removesuffix("/0") + "/7"
    with Client(url, shard_requests=4) as client:
        yield client
        client._redis.flushdb()


@pytest.fixture
def job(client: Client) -> HandMadeJob:
    """A job of ten requests in several shards."""
    made = HandMadeJob(client, 10)
    assert len(made.shards) > 2
    return made


def ids_of(lines: Iterator[Any]) -> list[str]:
    return [line.custom_id for line in lines]


def all_ids(count: int = 10) -> list[str]:
    return [f"line-{i}" for i in range(count)]


def ended(job: HandMadeJob) -> list[str]:
    """Collect a whole job, the second shard last, one line in two rounds; returns the custom_ids
    in the order of collection."""
    second = job.shards[1]
    for number in [shard.number for shard in job.shards if shard != second]:
        job.collect(number)
    job.collect(second.number, retried=[0])
    job.collect(job.shards[-1].number)
    job.end()
    shards = {shard.number: shard for shard in job.shards}
    first_round = [n for n in shards if shards[n].round == 0 and n != second.number]
    found = []
    for number in first_round:
        found += all_ids()[shards[number].first : shards[number].last + 1][::-1]
    found += all_ids()[second.first + 1 : second.last + 1][::-1]
    return [*found, all_ids()[second.first]]


def test_results_come_as_they_were_collected_or_as_they_were_submitted(
    client: Client, job: HandMadeJob
) -> None:
    completed = ended(job)
    batches = client.messages.batches
    assert ids_of(batches.results(job.id)) == completed
    assert sorted(completed) == sorted(all_ids())
    assert ids_of(batches.results(job.id, order="submitted")) == all_ids()
    line = next(batches.results(job.id))
    assert line.result.message.content[0].text.startswith(f"answer to {line.custom_id}")
    assert orjson.loads(next(batches.result_lines(job.id))) == line


@pytest.mark.parametrize("order", ["completed", "submitted"])
@pytest.mark.parametrize("after", [0, 1, 5, 9, 10, 11])
def test_results_go_on_behind_any_line(
    client: Client, job: HandMadeJob, order: str, after: int
) -> None:
    ended(job)
    batches = client.messages.batches
    whole = list(batches.result_lines(job.id, order=order))
    assert list(batches.result_lines(job.id, order=order, after=after)) == whole[after:]


def test_results_are_read_while_the_job_runs(client: Client, job: HandMadeJob) -> None:
    batches = client.messages.batches
    with pytest.raises(NotEnded, match=f"{job.id} has not ended; .*wait=True"):
        list(batches.results(job.id))
    job.collect(1, at_ms=99)
    lines = batches.results(job.id, wait=True, timeout=PATIENCE_S)
    second = job.shards[1]
    here = ids_of(islice(lines, second.requests))
    assert here == all_ids()[second.first : second.last + 1][::-1]
    # A worker whose clock is behind collects later: what was given out stays where it is.
    job.collect(0, at_ms=1)
    first = job.shards[0]
    assert ids_of(islice(lines, first.requests)) == all_ids()[: first.last + 1][::-1]
    resumed = batches.results(job.id, wait=True, after=second.requests, timeout=PATIENCE_S)
    assert next(resumed).custom_id == all_ids()[first.last]
    for shard in job.shards[2:]:
        job.cancel(shard.number)
    job.end()
    rest = list(lines)
    assert {line.result.type for line in rest} == {"canceled"}
    assert ids_of(iter(rest)) == all_ids()[first.requests + second.requests :]
    whole = ids_of(batches.results(job.id))
    assert whole[: len(here)] == here
    assert whole[len(here) + 1 :] == ids_of(resumed)


def test_a_job_whose_log_is_gone_still_has_all_its_results(
    client: Client, job: HandMadeJob
) -> None:
    ended(job)
    client._redis.xtrim(job.keys.log, maxlen=1, approximate=False)
    client._redis.hset(job.keys.meta, "base", client._redis.hget(job.keys.meta, "n"))
    assert sorted(ids_of(client.messages.batches.results(job.id))) == sorted(all_ids())


def test_results_that_have_expired_are_said_to_have(client: Client, job: HandMadeJob) -> None:
    ended(job)
    client._redis.delete(job.keys.chunks(job.shards[0].results))
    for order in ("completed", "submitted"):
        with pytest.raises(NotFound, match="have expired"):
            list(client.messages.batches.results(job.id, order=order))


@pytest.mark.parametrize(
    "options", [{"order": "any"}, {"after": -1}, {"order": "submitted", "wait": True}]
)
def test_what_cannot_be_asked_for_is_refused(
    client: Client, job: HandMadeJob, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        list(client.messages.batches.results(job.id, **options))


def test_a_job_tells_where_it_stands(client: Client, job: HandMadeJob) -> None:
    batches = client.messages.batches
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


def test_counts_of_a_batch_that_ended_are_not_believed_before_its_results_are_there(
    client: Client, job: HandMadeJob
) -> None:
    with job.claim(0) as work:
        counts = Counts(succeeded=work.shard.requests)
        work.advance("poll", work.shard.evolve(state="ended", counts=counts))
        work.release(countdown_s=1)
    found = client.messages.batches.retrieve(job.id)
    assert found.request_counts == Counts(processing=10)
    assert (found.progress.ended, found.progress.collected) == (1, 0)


def test_a_job_is_paused_and_resumed(client: Client, job: HandMadeJob) -> None:
    batches = client.messages.batches
    job.pause(0)
    job.alert(1)
    found = batches.retrieve(job.id)
    assert found.paused is not None
    assert (found.paused.type, found.paused.message) == ("billing_error", "no credit")
    assert found.paused.since >= found.created_at
    assert found.alert is not None
    assert (found.alert.type, found.alert.message) == ("duplicate_batch", "check it")
    assert batches.resume(job.id, who="me").paused is None
    assert batches.resume(job.id).paused is None  # nothing happens to one that is not paused
    told = islice(batches.events(job.id, timeout=PATIENCE_S), 4)
    kinds = [event.type for event in told]
    assert (kinds[0], kinds[1], kinds[3]) == (QUEUED, PAUSED, RESUMED)
    with pytest.raises(NotFound):
        batches.resume(new_id())


def test_a_job_that_has_reached_its_money_cap_gets_another_one(
    client: Client, job: HandMadeJob
) -> None:
    batches, money = client.messages.batches, job.keys.money
    with pytest.raises(InvalidRequest, match="max_cost_usd: the job was submitted without one"):
        batches.resume(job.id, max_cost_usd=3)
    assert not client._redis.exists(money)
    client._redis.hset(money, mapping={"cap": 2_000_000, "spent": 1_500_000, "reserved:3": 400_000})
    client._redis.expire(money, 100)
    job.pause(0, "cost_limit", "no money left")
    assert batches.retrieve(job.id).budget == Budget(2.0, 1.5, 0.4)
    resumed = batches.resume(job.id, max_cost_usd=3.25)
    assert (resumed.paused, resumed.budget) == (None, Budget(3.25, 1.5, 0.4))
    for amount in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="max_cost_usd: "):
            batches.resume(job.id, max_cost_usd=amount)
    with pytest.raises(NotFound):
        batches.resume(new_id(), max_cost_usd=1)


def test_a_job_that_is_to_be_canceled_tells_since_when(client: Client, job: HandMadeJob) -> None:
    job.pause(0)
    found = client.messages.batches.cancel(job.id, who="me")
    assert (found.processing_status, found.paused) == ("canceling", None)
    assert found.cancel_initiated
    assert found.cancel_initiated_at is not None
    assert found.cancel_initiated_at >= found.created_at


def test_waiting_tells_of_everything_and_ends_with_the_job(
    client: Client, job: HandMadeJob
) -> None:
    batches, seen, last = client.messages.batches, list[Batch](), list[Batch]()

    def wait() -> None:
        last.append(batches.wait(job.id, seen.append))

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: seen)
    job.collect(0, retried=[0])
    wait_until(lambda: seen[-1].progress.collected == 1)
    assert seen[-1].shards == job.shards  # the shard that was made meanwhile is there as well
    job.pause(1)
    wait_until(lambda: seen[-1].paused)
    batches.resume(job.id)
    wait_until(lambda: not seen[-1].paused)
    job.end(cost=orjson.dumps({"currency": "USD", "batch": 1.0, "live": 2.0}))
    waiting.join(PATIENCE_S)
    assert last == [batches.retrieve(job.id)] == seen[-1:]
    assert last[0].cost == {"currency": "USD", "batch": 1.0, "live": 2.0}
    assert batches.wait(job.id) == last[0]  # of one that has ended it returns at once


@pytest.mark.parametrize("timeout", [None, PATIENCE_S])
def test_waiting_that_lags_behind_misses_nothing(
    client: Client, job: HandMadeJob, timeout: float | None
) -> None:
    seen: list[int] = []

    def work_meanwhile(batch: Batch) -> None:
        seen.append(batch.progress.collected)
        if len(seen) == 1:
            job.collect(0, retried=[0])
            job.collect(1)
        elif batch.progress.collected == 2 and not batch.state.ended:
            for shard in job.shards[2:]:
                job.collect(shard.number)
            job.end()

    last = client.messages.batches.wait(job.id, work_meanwhile, timeout=timeout)
    assert last == client.messages.batches.retrieve(job.id)
    assert last.progress.collected == len(last.shards)


def test_waiting_gives_up_after_its_time_and_the_job_goes_on(
    client: Client, job: HandMadeJob
) -> None:
    batches = client.messages.batches
    job.begin(0)
    with pytest.raises(TimeoutError, match=job.id):
        batches.wait(job.id, lambda _: None, timeout=0.05)
    assert batches.retrieve(job.id).state is State.RUNNING
    with pytest.raises(NotFound):
        batches.wait(new_id())


def test_events_go_on_behind_a_cursor(client: Client, job: HandMadeJob) -> None:
    ended(job)
    batches = client.messages.batches
    whole = list(batches.events(job.id))
    assert {event.type for event in whole} == {QUEUED, PROGRESS, END}
    assert list(batches.events(job.id, after=str(whole[2].cursor))) == whole[3:]


def test_an_estimate_needs_a_history(client: Client, job: HandMadeJob) -> None:
    batches = client.messages.batches
    assert batches.estimate(batches.retrieve(job.id)) is None
    history = client.settings.keys.history
    for ms in (60_000, 120_000, 180_000):
        past = {"model": MODEL, "requests": 4, "ms": ms}
        client._redis.lpush(history, orjson.dumps(past))
    client._redis.expire(history, 100)
    estimate = batches.estimate(batches.retrieve(job.id))
    assert estimate is not None
    assert 60 <= estimate.median_s <= estimate.high_s <= 180
    job.pause(0)
    assert batches.estimate(batches.retrieve(job.id)) is None


def test_a_list_has_pages_as_the_sdks_has(client: Client) -> None:
    batches = client.messages.batches
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


def test_a_list_goes_on_though_its_jobs_are_deleted_meanwhile(client: Client) -> None:
    batches = client.messages.batches
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
def test_a_page_has_a_reasonable_size(client: Client, limit: int) -> None:
    with pytest.raises(InvalidRequest, match="limit: "):
        client.messages.batches.list(limit=limit)
    with pytest.raises(InvalidRequest, match="before_id: "):
        client.messages.batches.list(after_id=new_id(), before_id=new_id())
    with pytest.raises(NotFound, match="is not an id"):
        client.messages.batches.list(after_id="*")


def test_only_what_has_ended_can_be_deleted(client: Client, job: HandMadeJob) -> None:
    batches = client.messages.batches
    with pytest.raises(NotEnded, match="cancel it first"):
        batches.delete(job.id)
    ended(job)
    batches.delete(job.id)
    left = list(client._redis.scan_iter(f"*{job.id}*"))
    assert left == []
    assert client._redis.zscore(client.settings.keys.jobs, job.id) is None
    for call in (batches.retrieve, batches.delete, batches.wait):
        with pytest.raises(NotFound):
            call(job.id)
    with pytest.raises(NotFound):
        list(batches.results(job.id))


def test_a_job_whose_chunks_are_files_is_read_and_deleted_like_any_other(
    client: Client, tmp_path: Path
) -> None:
    url = client.settings.redis_url.get_secret_value()
    with Client(url, shard_requests=4, spool_url=f"file://{tmp_path}/spool") as producer:
        job = HandMadeJob(producer, 10)
        completed = ended(job)
    # Where they lie stands in the record: who reads needs no setting for it.
    batches = client.messages.batches
    assert ids_of(batches.results(job.id)) == completed
    assert ids_of(batches.results(job.id, order="submitted")) == all_ids()
    file = next((tmp_path / "spool" / job.id / job.shards[0].results).iterdir())
    file.unlink()
    with pytest.raises(NotFound, match="have expired"):
        list(batches.results(job.id))
    batches.delete(job.id)
    assert list((tmp_path / "spool").iterdir()) == []


def test_no_redis_is_said_to_every_call() -> None:
    with Client(f"redis://127.0.0.1:{free_port()}/0") as client:
        batches, id = client.messages.batches, new_id()
        for call in (batches.retrieve, batches.wait, batches.delete, batches.resume):
            with pytest.raises(RedisUnavailable):
                call(id)
        with pytest.raises(RedisUnavailable):
            list(batches.results(id, wait=True))
