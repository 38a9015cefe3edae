"""Submission of batch jobs from an event loop: any iterable, and a loop that is not blocked."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from penstock.async_client import AsyncClient
from penstock.batches.async_source import PAGE
from penstock.errors import InvalidRequest
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.testing import wait_until
from tests.connections import redis_of


def request(number: int) -> dict[str, Any]:
    message = {"role": "user", "content": "x"}
    return {
        "custom_id": f"id-{number}",
        "params": {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [message]},
    }


async def many(count: int) -> AsyncIterator[Any]:
    for number in range(count):
        if number % 7 == 0:
            await asyncio.sleep(0)
        yield request(number)


def client(server: EmbeddedRedis) -> AsyncClient:
    return AsyncClient(server.url, key_prefix=f"async-{new_id()[-8:]}")


def jobs_of(client: AsyncClient) -> int:
    return int(redis_of(client._sync).zcard(client.settings.keys.jobs))


@pytest.mark.parametrize("count", [1, PAGE, PAGE + 1, 10 * PAGE])
def test_an_async_iterable_is_read_to_its_end(penstock_redis: EmbeddedRedis, count: int) -> None:
    async def create() -> None:
        async with client(penstock_redis) as ours:
            job = await ours.messages.batches.create(requests=many(count), shard_requests=19)
            assert job.request_counts.total == count
            assert job.shards[0].requests == min(count, 19)

    asyncio.run(create())


def test_any_other_iterable_is_read_in_a_thread(penstock_redis: EmbeddedRedis) -> None:
    async def create() -> None:
        running = asyncio.get_running_loop()

        def outside() -> Iterator[Any]:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            assert running.is_running()
            yield from map(request, range(5))

        async with client(penstock_redis) as ours:
            job = await ours.messages.batches.create(requests=outside(), canary=1)
            assert [shard.live for shard in job.shards] == [True, False]

    asyncio.run(create())


class SourceFailed(Exception):
    pass


async def failing() -> AsyncIterator[Any]:
    yield request(1)
    raise SourceFailed


async def bad() -> AsyncIterator[Any]:
    yield request(1)
    yield 5


@pytest.mark.parametrize(("source", "expected"), [(failing, SourceFailed), (bad, InvalidRequest)])
def test_a_source_that_fails_leaves_no_job(
    penstock_redis: EmbeddedRedis, source: Any, expected: type[Exception]
) -> None:
    async def create() -> None:
        async with client(penstock_redis) as ours:
            with pytest.raises(expected):
                await ours.messages.batches.create(requests=source())
            assert jobs_of(ours) == 0

    asyncio.run(create())


def test_requests_that_are_no_iterable_are_refused(penstock_redis: EmbeddedRedis) -> None:
    async def create() -> None:
        async with client(penstock_redis) as ours:
            wrong: Any = 5
            with pytest.raises(TypeError, match="not iterable"):
                await ours.messages.batches.create(requests=wrong)

    asyncio.run(create())


def test_a_canceled_submission_stops_waiting_for_requests_and_leaves_no_job(
    penstock_redis: EmbeddedRedis,
) -> None:
    asked = asyncio.Event()
    closed: list[bool] = []

    async def endless() -> AsyncIterator[Any]:
        try:
            yield request(1)
            asked.set()
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def create() -> None:
        async with client(penstock_redis) as ours:
            task = asyncio.ensure_future(ours.messages.batches.create(requests=endless()))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_until, lambda: closed)
            pattern = f"{ours.settings.key_prefix}:*"
            await asyncio.to_thread(
                wait_until, lambda: not list(redis_of(ours._sync).scan_iter(pattern))
            )

    asyncio.run(create())


def test_the_loop_is_not_blocked_while_a_job_is_submitted(penstock_redis: EmbeddedRedis) -> None:
    async def create() -> None:
        async with client(penstock_redis) as ours:
            task = asyncio.ensure_future(ours.messages.batches.create(requests=many(3_000)))
            turns = 0
            while not task.done():
                await asyncio.sleep(0)
                turns += 1
            assert (await task).request_counts.total == 3_000
            assert turns > 3_000 / PAGE

    asyncio.run(create())
