"""Publisher: a call of many MB has a round trip of its own, and delays only its own stream."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tasks.streams.publish.publisher import LARGE_CALL_BYTES, LARGE_CALLS_LIMIT, RETRY_S
from tests.unit.tasks.streams.publish.publisher_stage import TIMEOUT_S, Stage
from tests.unit.tasks.streams.publish.scripted_redis import NEVER

Perform = Callable[..., Any]

LARGE = 3 * LARGE_CALL_BYTES * "x"


def test_a_large_call_that_is_not_answered_delays_no_other_stream(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        large, other = stage.boxes
        stage.redis.will_answer("write", large.id, NEVER)
        stage.write(LARGE, box=large)
        loop = asyncio.get_running_loop()
        for _ in range(20):
            stage.write("a", box=large)
            stage.write("b", box=other)
            began = loop.time()
            await stage.publisher.drain(other)
            assert loop.time() - began < RETRY_S
        assert len(stage.redis.calls("write", large.id)) == 1
        await stage.publisher.drain(large)
        first, again, rest = stage.redis.calls("write", large.id)
        assert again.args == first.args
        assert again.at - first.at > TIMEOUT_S + RETRY_S
        assert (rest.first, rest.last) == (12, 12)
        assert (large.n, large.lost, stage.interrupted) == (12, "", [])

    perform(test, streams=2)


@pytest.mark.parametrize(
    "error", [redis.ConnectionError("lost"), redis.exceptions.OutOfMemoryError("full")]
)
def test_a_large_call_that_fails_is_repeated(perform: Perform, error: Exception) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, error, error)
        stage.write(LARGE)
        await stage.publisher.drain(stage.box)
        times = [call.at for call in stage.redis.calls("write")]
        assert len(times) == 3
        assert times[1] - times[0] > 0.99 * RETRY_S
        assert stage.box.n == 11

    perform(test)


def test_a_large_call_that_fails_by_a_bug_ends_its_own_stream_alone(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        large, other = stage.boxes
        stage.redis.will_answer("write", large.id, RuntimeError("odd"))
        stage.write(LARGE, box=large)
        stage.write("b", box=other)
        for box in stage.boxes:
            await stage.publisher.drain(box)
        assert large.fault
        assert (other.n, other.lost) == (11, "")

    perform(test, streams=2)


def test_many_large_calls_leave_connections_for_the_other_streams(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        *large, other = stage.boxes
        for box in large:
            stage.redis.will_answer("write", box.id, NEVER)
            stage.write(LARGE, box=box)
        stage.write("b", box=other)
        await stage.publisher.drain(other)
        assert len(stage.redis.connections) <= LARGE_CALLS_LIMIT + 1
        for box in large:
            await stage.publisher.drain(box)
            assert (box.n, box.lost) == (11, "")

    perform(test, streams=3 * LARGE_CALLS_LIMIT)


def test_a_stream_that_ends_during_its_large_call_is_not_written_again(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, NEVER)
        stage.write(LARGE)
        await stage.seconds(1)
        stage.publisher.unwatch(stage.box)
        await stage.seconds(60)
        assert len(stage.redis.calls("write")) == 1
        assert not stage.publisher._held

    perform(test)
