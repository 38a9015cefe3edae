"""Publisher: how outboxes reach Redis, whatever Redis answers to a write.

The connection is scripted and the time is virtual, so that an outage of five minutes is tested in
no time. tests/acceptance has real outages.
"""

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import redis
from redis.exceptions import OutOfMemoryError

from penstock.ids import new_id
from penstock.store.scripts import ScriptCall
from tasks.streams.publish.outbox import Outbox
from tasks.streams.publish.publisher import MAX_PAUSE_S, MAX_REFUSAL_S, RETRY_S, Publisher
from tests.unit.tasks.streams.publish.outbox_calls import DEPLOYMENT, gap, ok
from tests.unit.tasks.streams.publish.publisher_stage import TIMEOUT_S, Stage
from tests.unit.tasks.streams.publish.scripted_redis import NEVER

Perform = Callable[..., Any]

FENCED = [b"fenced", 4]
GONE = [b"gone"]
FULL = OutOfMemoryError("command not allowed when used memory > 'maxmemory'")


def test_an_event_is_written_as_soon_as_its_stream_is_notified(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        began = asyncio.get_running_loop().time()
        stage.write("a")
        await stage.publisher.drain(stage.box)
        (call,) = stage.redis.calls("write")
        assert (call.id, call.first, call.last, call.at) == (stage.box.id, 11, 11, began)
        assert stage.box.n == 11

    perform(test)


def test_the_streams_of_a_process_are_written_in_one_round_trip(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        for box in stage.boxes[:3]:
            stage.write("a", box=box)
        for box in stage.boxes[:3]:
            await stage.publisher.drain(box)
        (calls,) = stage.redis.round_trips
        assert [call.id for call in calls] == [box.id for box in stage.boxes[:3]]
        assert len(stage.redis.connections) == 1

    perform(test, streams=4)


def test_events_that_arrive_during_a_flush_are_written_with_the_next(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.latency_s = 0.5
        stage.write("a")
        await stage.seconds(0.1)
        stage.write("b", "c")
        await stage.publisher.drain(stage.box)
        assert [(call.first, call.last) for call in stage.redis.calls("write")] == [
            (11, 11),
            (12, 12),
        ]
        assert stage.interrupted == []

    perform(test)


def test_the_pause_between_flushes_is_as_long_as_a_flush_and_bounded(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.latency_s = MAX_PAUSE_S / 4
        starts = [await next_flush(stage) for _ in range(3)]
        stage.redis.latency_s = 3.0
        starts += [await next_flush(stage) for _ in range(2)]
        between = [later - earlier for earlier, later in pairwise(starts)]
        short = MAX_PAUSE_S / 2
        assert between == pytest.approx([short, short, short, 3.0 + MAX_PAUSE_S])

    async def next_flush(stage: Stage) -> float:
        stage.write("x")
        await stage.publisher.drain(stage.box)
        return stage.redis.calls("write")[-1].at

    perform(test)


def test_an_idle_publisher_makes_no_calls_for_writes(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        await stage.seconds(60)
        stage.publisher.notify(stage.box)  # there is nothing in it
        await stage.seconds(60)
        await stage.publisher.drain(stage.box)
        assert stage.redis.calls("write") == []

    perform(test)


def test_drain_also_writes_what_no_notification_has_announced(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.box.end({"state": "done"})
        await stage.publisher.drain(stage.box)
        assert (stage.box.n, stage.box.lost) == (11, "")

    perform(test)


def test_drain_waits_for_everything_that_was_added(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.latency_s = 1.0
        stage.write("a")
        await stage.seconds(0.5)
        stage.write("b")
        stage.box.end({"state": "done"})
        await stage.publisher.drain(stage.box)
        assert stage.box.acknowledged
        assert stage.box.n == 13
        assert [call.last for call in stage.redis.calls("write")] == [11, 13]

    perform(test)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (FENCED, "another worker has claimed it"),
        (GONE, "expired or was deleted"),
        (gap(4), "ends at 4"),
    ],
)
def test_a_stream_that_is_lost_to_another_worker_is_interrupted_and_drained(
    perform: Perform, answer: list[Any], words: str
) -> None:
    async def test(stage: Stage) -> None:
        other = stage.boxes[1]
        stage.redis.will_answer("write", stage.box.id, answer)
        stage.write("a")
        stage.write("b", box=other)
        await stage.publisher.drain(stage.box)
        assert words in stage.box.lost
        assert stage.interrupted == [stage.box.id]
        stage.write("c")
        await stage.publisher.drain(stage.box)
        await stage.publisher.drain(other)
        assert len(stage.redis.calls("write", stage.box.id)) == 1
        assert (other.n, other.lost) == (11, "")

    perform(test, streams=2)


def test_a_cancel_request_in_the_reply_to_a_write_interrupts_the_stream(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, ok(11, b"alice"))
        stage.write("a")
        stage.write("b", box=stage.boxes[1])
        await stage.publisher.drain(stage.box)
        assert (stage.box.cancel, stage.interrupted) == ("alice", [stage.box.id])
        assert stage.boxes[1].cancel == ""

    perform(test, streams=2)


def test_events_that_redis_has_lost_are_written_again(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        for piece in ("a", "b"):
            stage.write(piece)
            await stage.publisher.drain(stage.box)
        stage.redis.will_answer("write", stage.box.id, gap(11))
        stage.write("c")
        await stage.publisher.drain(stage.box)
        made = [(call.first, call.last) for call in stage.redis.calls("write")]
        assert made == [(11, 11), (12, 12), (13, 13), (12, 13)]
        assert (stage.box.n, stage.interrupted) == (13, [])

    perform(test)


@pytest.mark.parametrize("error", [redis.ConnectionError("lost"), ConnectionResetError("lost")])
def test_a_lost_connection_repeats_the_same_calls_until_redis_answers(
    perform: Perform, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def test(stage: Stage) -> None:
        for box in stage.boxes:
            stage.redis.will_answer("write", box.id, error, error)
            stage.write("a", box=box)
        for box in stage.boxes:
            await stage.publisher.drain(box)
        trips = stage.redis.round_trips
        assert [[call.args for call in calls] for calls in trips] == 3 * [
            [call.args for call in trips[0]]
        ]
        assert trips[1][0].at - trips[0][0].at == pytest.approx(RETRY_S + MAX_PAUSE_S)
        assert [box.n for box in stage.boxes] == [11, 11]
        assert stage.redis.is_idle

    perform(test, streams=2)
    began, ended = caplog.messages
    assert began.startswith("Redis is unavailable or refuses commands, retrying: Connection")
    assert ended == "Redis is available again"


def test_a_reply_that_never_comes_is_waited_for_only_until_the_timeout(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, NEVER)
        stage.write("a")
        await stage.publisher.drain(stage.box)
        first, second = stage.redis.calls("write")
        assert second.args == first.args
        assert second.at - first.at == pytest.approx(TIMEOUT_S + RETRY_S + MAX_PAUSE_S)
        assert stage.box.n == 11

    perform(test)


def test_an_outage_of_redis_neither_loses_nor_interrupts_a_stream(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, *3_000 * [redis.ConnectionError()])
        stage.write("a")
        await stage.seconds(2 * MAX_REFUSAL_S)
        stage.write("b")
        assert (stage.box.lost, stage.interrupted) == ("", [])
        await stage.publisher.drain(stage.box)
        assert stage.box.n == 12

    perform(test)


def test_an_unwatched_stream_is_neither_written_nor_interrupted(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.write("a")
        stage.publisher.unwatch(stage.box)
        await stage.seconds(60)
        assert stage.redis.round_trips == []
        stage.write("b")  # as a call that was outstanding when the run ended
        stage.redis.will_answer("write", stage.box.id, FENCED)
        await stage.seconds(60)
        assert stage.box.lost
        assert stage.interrupted == []

    perform(test)


def test_an_unwatched_stream_is_not_kept_in_memory(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        gone = weakref.ref(box := stage.add_stream())
        stage.redis.will_answer("write", box.id, FULL)
        stage.write("a", box=box)
        await stage.publisher.drain(box)
        stage.publisher.unwatch(box)
        del box
        stage.write("b")
        await stage.publisher.drain(stage.box)  # until then the last flush has it
        await stage.seconds(60)
        gc.collect()
        assert gone() is None

    perform(test)


class StalledPipeline:
    """A pipeline whose replies are outstanding; it holds none of the coroutines that wait."""

    def __init__(self) -> None:
        self.outstanding: list[weakref.ref[asyncio.Future[list[Any]]]] = []
        self.asked = asyncio.Semaphore(0)

    async def run(self, _: Sequence[ScriptCall[Any]]) -> list[Any]:
        reply: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.outstanding.append(weakref.ref(reply))
        self.asked.release()
        return await reply


def test_every_check_of_a_cancel_flag_is_kept_until_redis_has_answered() -> None:
    async def check_two() -> list[str]:
        stalled: Any = StalledPipeline()
        publisher = Publisher(stalled, DEPLOYMENT, lease_ms=5_000)
        boxes = [
            Outbox(DEPLOYMENT, new_id(), worker="w", epoch=1, n=1, ttl_s=60, retention_s=60)
            for _ in range(2)
        ]
        interrupted = asyncio.Semaphore(0)
        for box in boxes:
            publisher.watch(box, interrupted.release)
            publisher.check_cancel(box.id)
        for _ in boxes:
            await stalled.asked.acquire()
        gc.collect()
        for waiting in stalled.outstanding:
            reply = waiting()
            assert reply is not None, "the task of a check was collected while it waited"
            reply.set_result([[b"ok", b"alice", 1]])
        for _ in boxes:
            await interrupted.acquire()
        return [box.cancel for box in boxes]

    assert asyncio.run(check_two()) == ["alice", "alice"]
