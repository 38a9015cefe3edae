"""Publisher: a stream whose writes Redis refuses, or cannot be made, harms no other stream."""

import asyncio
import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from tasks.streams.publish.outbox import Outbox
from tasks.streams.publish.publisher import MAX_REFUSAL_S, RETRY_S
from tests.unit.tasks.streams.publish.outbox_calls import ok
from tests.unit.tasks.streams.publish.publisher_stage import Stage

Perform = Callable[..., Any]

FULL = OutOfMemoryError("command not allowed when used memory > 'maxmemory'")


@pytest.mark.parametrize(
    "error", [FULL, ReadOnlyError("a replica"), ResponseError("MISCONF no disk")]
)
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
    assert sum("refuses commands" in message for message in caplog.messages) == 1


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
