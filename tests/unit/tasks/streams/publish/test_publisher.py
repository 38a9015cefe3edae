"""Publisher: how outboxes reach Redis, whatever Redis answers to a write.

The connection is scripted and the time is virtual, so that an outage of five minutes is tested in
no time. tests/acceptance has real outages.
"""

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from penstock.ids import new_id
from penstock.store.scripts import ScriptCall
from tasks.streams.publish.outbox import Outbox
from tasks.streams.publish.publisher import MAX_PAUSE_S, MAX_REFUSAL_S, RETRY_S, Publisher
from tests.unit.tasks.streams.publish.outbox_calls import DEPLOYMENT, gap, ok
from tests.unit.tasks.streams.publish.publisher_stage import TIMEOUT_S, Stage, on_stage
from tests.unit.tasks.streams.publish.scripted_redis import NEVER

T = TypeVar("T")
Perform = Callable[..., Any]

FENCED = [b"fenced", 4]
GONE = [b"gone"]
FULL = OutOfMemoryError("command not allowed when used memory > 'maxmemory'")


@pytest.fixture
def perform(monkeypatch: pytest.MonkeyPatch) -> Perform:
    """Runs a test with a publisher and its streams."""

    def run(test: Callable[[Stage], Awaitable[T]], streams: int = 1) -> T:
        return on_stage(monkeypatch, test, streams)

    return run


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
    assert caplog.messages == 2 * ["Redis is unavailable, retrying: lost"]


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


@pytest.mark.parametrize("error", [FULL, ReadOnlyError("a replica")])
def test_a_refused_write_is_repeated_and_does_not_affect_other_streams(
    perform: Perform, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def test(stage: Stage) -> None:
        refused, other = stage.boxes
        stage.redis.will_answer("write", refused.id, *4 * [error])
        stage.write("a", box=refused)
        stage.write("b", box=other)
        await stage.publisher.drain(other)
        assert other.n == 11
        await stage.publisher.drain(refused)
        assert (refused.n, refused.lost, stage.interrupted) == (11, "", [])
        made = stage.redis.calls("write", refused.id)
        assert [call.args for call in made] == 5 * [made[0].args]
        waited = made[1].at - made[0].at
        assert RETRY_S <= waited < 2 * RETRY_S
        assert len(stage.redis.calls("write", other.id)) == 1

    with caplog.at_level(logging.WARNING):
        perform(test, streams=2)
    assert sum("refuses to write" in message for message in caplog.messages) == 1


def test_a_stream_whose_writes_are_refused_delays_no_other(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        refused, other = stage.boxes
        stage.redis.latency_s = 0.001
        stage.redis.will_answer("write", refused.id, *1_000 * [ResponseError("WRONGTYPE")])
        loop = asyncio.get_running_loop()
        for _ in range(50):
            stage.write("a", box=refused)
            stage.write("b", box=other)
            began = loop.time()
            await stage.publisher.drain(other)
            assert loop.time() - began < RETRY_S / 2
            await stage.seconds(RETRY_S / 2)
        times = [call.at for call in stage.redis.calls("write", refused.id)]
        assert len(times) > 20
        assert all(later - earlier > 0.99 * RETRY_S for earlier, later in pairwise(times))

    perform(test, streams=2)


def test_a_redis_that_refuses_every_write_is_asked_again_at_intervals(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.latency_s = 0.005
        for box in stage.boxes:
            stage.redis.will_answer("write", box.id, *20 * [FULL])
            stage.write("a", box=box)
        for _ in range(500):  # deltas arrive all the time
            await stage.seconds(0.01)
            for box in stage.boxes:
                stage.write("b", box=box)
        for box in stage.boxes:
            times = [call.at for call in stage.redis.calls("write", box.id)][:21]
            assert len(times) == 21
            assert all(later - earlier > 0.99 * RETRY_S for earlier, later in pairwise(times))
            await stage.publisher.drain(box)
            assert (box.n > 11, box.lost) == (True, "")

    perform(test, streams=3)


def test_a_stream_whose_writes_are_refused_for_too_long_is_given_up(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, *10_000 * [FULL])
        began = asyncio.get_running_loop().time()
        stage.write("a")
        await stage.publisher.drain(stage.box)
        waited = asyncio.get_running_loop().time() - began
        assert MAX_REFUSAL_S < waited < MAX_REFUSAL_S + 1
        assert "Redis has refused to write for 300 s: command not allowed" in stage.box.lost
        assert stage.interrupted == [stage.box.id]

    perform(test)


def test_each_accepted_write_restarts_the_time_of_refusals(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        refusals = int(0.7 * MAX_REFUSAL_S / RETRY_S)
        for n in (11, 12):
            stage.redis.will_answer("write", stage.box.id, *refusals * [FULL], ok(n))
            stage.write("a")
            await stage.publisher.drain(stage.box)
        assert (stage.box.n, stage.box.lost, stage.interrupted) == (12, "", [])

    perform(test)


def test_the_refusals_of_an_earlier_run_do_not_count_for_the_next(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, FULL)
        stage.write("a")
        await stage.seconds(RETRY_S / 2)
        stage.publisher.unwatch(stage.box)
        await stage.seconds(2 * MAX_REFUSAL_S)
        stage.publisher.watch(stage.box, lambda: None)
        stage.redis.will_answer("write", stage.box.id, FULL)
        stage.write("b")
        await stage.publisher.drain(stage.box)
        assert stage.box.lost == ""

    perform(test)


def test_an_odd_error_of_a_round_trip_does_not_end_the_writes_of_the_process(
    perform: Perform, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, RuntimeError("odd"))
        for box in stage.boxes:
            stage.write("a", box=box)
        for box in stage.boxes:
            await stage.publisher.drain(box)
            assert (box.n, box.lost) == (11, "")
        first, second = (calls[0] for calls in stage.redis.round_trips)
        assert second.at - first.at >= RETRY_S

    perform(test, streams=2)
    assert caplog.messages == ["writing events failed and is restarted"]


def test_a_process_that_can_never_write_ends_so_that_others_take_its_streams_over(
    perform: Perform,
) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, *1_000 * [RuntimeError("odd")])
        stage.write("a")
        await stage.seconds(600)
        assert stage.deaths == ["writing events failed 10 times in a row"]

    perform(test)


def unwritable(box: Outbox) -> None:
    """Add an event whose call cannot be packed."""
    box.note(odd=object())


def unrenderable(box: Outbox) -> None:
    """Add deltas that cannot be merged into one event."""
    for value in ("a", 5):
        data = {"type": "text_delta", "text": value}
        box.add(b"{}", {"type": "content_block_delta", "index": 0, "delta": data})


@pytest.mark.parametrize("reply", [[], [b"ok", 11, None], 7, None])
def test_a_reply_that_cannot_be_parsed_ends_its_own_stream_alone(
    perform: Perform, caplog: pytest.LogCaptureFixture, reply: Any
) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, reply)
        await check_that_only_the_first_ends(stage)

    perform(test, streams=3)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("spoil", [unwritable, unrenderable])
def test_a_call_that_cannot_be_made_ends_its_own_stream_alone(
    perform: Perform, caplog: pytest.LogCaptureFixture, spoil: Callable[[Outbox], None]
) -> None:
    async def test(stage: Stage) -> None:
        spoil(stage.box)
        await check_that_only_the_first_ends(stage)

    perform(test, streams=3)
    (record,) = caplog.records
    assert record.message == f"the events of request {record.args[0]} cannot be written"  # type: ignore[index]
    assert record.exc_info


async def check_that_only_the_first_ends(stage: Stage) -> None:
    """Write to all streams twice, of which the first cannot be written."""
    bad, *others = stage.boxes
    for _ in range(2):
        for box in stage.boxes:
            stage.write("a", box=box)
        for box in stage.boxes:
            await stage.publisher.drain(box)
    assert bad.fault
    assert bad.lost == "its events cannot be written because of a bug in penstock"
    assert set(stage.interrupted) == {bad.id}
    assert [(box.n, box.lost, box.fault) for box in others] == 2 * [(12, "", "")]


def test_a_call_that_is_refused_after_its_run_ended_is_forgotten(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.latency_s = 1.0
        stage.redis.will_answer("write", stage.box.id, *5 * [FULL])
        stage.write("a")
        await stage.seconds(0.5)  # the call is outstanding
        stage.publisher.unwatch(stage.box)
        await stage.seconds(60)
        assert len(stage.redis.calls("write", stage.box.id)) == 1
        assert not stage.publisher._refused_since

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
