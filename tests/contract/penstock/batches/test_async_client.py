"""`AsyncBatches`: the same as test_batch_reading.py with ``await`` and ``async for``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from penstock.async_client import AsyncClient
from penstock.batches.view import Batch
from penstock.client import Client
from penstock.errors import InvalidRequest, NotEnded, NotFound
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.states import State
from tests.contract.tasks.batches.hand_made import HandMadeJob
from tests.scripted import PATIENCE_S

Scenario = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture
def url(penstock_redis: EmbeddedRedis) -> str:
    return penstock_redis.url.removesuffix("/0") + "/8"


@pytest.fixture
def job(url: str) -> Iterator[HandMadeJob]:
    with Client(url, shard_requests=4) as client:
        yield HandMadeJob(client, 10)
        client._redis.flushdb()


@pytest.fixture
def run(url: str) -> Callable[[Scenario], None]:
    """Run a scenario with a client of its own; no task may stay behind."""

    async def main(scenario: Scenario) -> None:
        async with AsyncClient(url) as client:
            await scenario(client)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    return lambda scenario: asyncio.run(main(scenario))


async def ids_of(lines: AsyncIterator[Any]) -> list[str]:
    return [line.custom_id async for line in lines]


def test_results_are_those_of_the_synchronous_client(
    url: str, job: HandMadeJob, run: Callable[[Scenario], None]
) -> None:
    for shard in job.shards:
        job.collect(shard.number)
    job.end()
    with Client(url) as client:
        expected = list(client.messages.batches.result_lines(job.id))

    async def scenario(client: AsyncClient) -> None:
        batches = client.messages.batches
        assert [line async for line in batches.result_lines(job.id)] == expected
        assert [line async for line in batches.result_lines(job.id, wait=True)] == expected
        rest = [line async for line in batches.result_lines(job.id, wait=True, after=5)]
        assert rest == expected[5:]
        submitted = await ids_of(batches.results(job.id, order="submitted", after=3))
        assert submitted == [f"line-{i}" for i in range(3, 10)]

    run(scenario)


def test_results_are_read_while_the_job_runs(
    job: HandMadeJob, run: Callable[[Scenario], None]
) -> None:
    job.collect(1)

    async def scenario(client: AsyncClient) -> None:
        batches = client.messages.batches
        with pytest.raises(NotEnded):
            await ids_of(batches.results(job.id))
        lines = batches.results(job.id, wait=True, timeout=PATIENCE_S)
        second = job.shards[1]
        for position in range(second.last, second.first - 1, -1):
            assert (await anext(lines)).custom_id == f"line-{position}"
        for shard in (each for each in job.shards if each.number != 1):
            await asyncio.to_thread(job.collect, shard.number)
        await asyncio.to_thread(job.end)
        assert len(await ids_of(lines)) == 10 - second.requests

    run(scenario)


def test_a_job_is_waited_for(job: HandMadeJob, run: Callable[[Scenario], None]) -> None:
    async def scenario(client: AsyncClient) -> None:
        batches, seen = client.messages.batches, list[Batch]()
        waiting = asyncio.create_task(batches.wait(job.id, seen.append))
        await asyncio.to_thread(job.collect, 0, retried=[0])
        await asyncio.to_thread(job.end)
        assert await waiting == await batches.retrieve(job.id) == seen[-1]
        assert seen[-1].state is State.DONE
        assert seen[-1].shards == job.shards
        assert await batches.wait(job.id, timeout=1) == seen[-1]
        assert await batches.estimate(seen[-1]) is None
        await batches.delete(job.id)

    run(scenario)


@pytest.mark.parametrize("timeout", [None, PATIENCE_S])
def test_waiting_that_lags_behind_misses_nothing(
    job: HandMadeJob, run: Callable[[Scenario], None], timeout: float | None
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

    async def scenario(client: AsyncClient) -> None:
        batches = client.messages.batches
        last = await batches.wait(job.id, work_meanwhile, timeout=timeout)
        assert last == await batches.retrieve(job.id)
        assert last.progress.collected == len(last.shards)

    run(scenario)


def test_a_paused_job_is_resumed(job: HandMadeJob, run: Callable[[Scenario], None]) -> None:
    job.pause(0)

    async def scenario(client: AsyncClient) -> None:
        batches = client.messages.batches
        assert (await batches.retrieve(job.id)).paused is not None
        with pytest.raises(TimeoutError):
            await batches.wait(job.id, timeout=0.05)
        assert (await batches.resume(job.id)).paused is None

    run(scenario)


def test_what_cannot_be_had_is_said(job: HandMadeJob, run: Callable[[Scenario], None]) -> None:
    async def scenario(client: AsyncClient) -> None:
        batches = client.messages.batches
        for call in (batches.wait, batches.resume, batches.delete):
            with pytest.raises(NotFound):
                await call(new_id())
        for wait in (True, False):
            with pytest.raises(NotFound):
                await ids_of(batches.results(new_id(), wait=wait))
            with pytest.raises(InvalidRequest):
                await ids_of(batches.results(job.id, order="any", wait=wait))
        with pytest.raises(InvalidRequest):
            await batches.list(limit=0)

    run(scenario)


def test_a_list_has_pages(job: HandMadeJob, run: Callable[[Scenario], None]) -> None:
    async def scenario(client: AsyncClient) -> None:
        batches = client.messages.batches
        others = [job.id]
        others += [(await asyncio.to_thread(HandMadeJob, client._sync, 1)).id for _ in "ab"]
        page = await batches.list(limit=2)
        assert [each.id for each in page.data] == others[:0:-1]
        assert (page.first_id, page.last_id, page.has_more) == (others[2], others[1], True)
        assert [each.id async for each in page] == others[::-1]
        assert [each.id async for each in batches.list(limit=1)] == others[::-1]

    run(scenario)
