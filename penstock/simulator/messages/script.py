"""The course of one stream: what is written, at what pace, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from penstock.simulator.errors import ApiError
from penstock.simulator.faults.fault import FOREVER_S, Fault, Position
from penstock.simulator.messages import sse
from penstock.simulator.messages.answers import Answer


class Kind(Enum):
    """How a step is carried out."""

    AT_ONCE = auto()
    #: A delta: counted, and written when its time has come.
    DELTA = auto()
    #: A delta whose bytes are a template for the time of writing.
    STAMPED_DELTA = auto()
    STALL = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """One write, or one stall."""

    kind: Kind
    data: bytes = b""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """Every step of a stream."""

    steps: tuple[Step, ...]
    dropped: bool = False
    """The connection is cut after the last step, and the body stays without its end."""
    finished: bool = True
    """The steps reach message_stop."""


def script(
    answer: Answer,
    message_id: str,
    *,
    fault: Fault | None = None,
    ping_every: int = 0,
    request_id: str | None = None,
) -> Script:
    """Return the course of a stream that carries `answer` and meets `fault`."""
    steps = list(_steps(answer, message_id, ping_every))
    if fault is None:
        return Script(tuple(steps))
    places = [i for i, step in enumerate(steps) if step.kind in (Kind.DELTA, Kind.STAMPED_DELTA)]
    stop = len(steps) - 1
    end, ending, dropped = _ending(fault, steps, places, request_id)
    steps[end:] = ending
    if fault.stall_after is not None:
        stall = Step(Kind.STALL, seconds=FOREVER_S if fault.stall is None else fault.stall)
        steps.insert(min(end, _place(fault.stall_after, places, stop)), stall)
    finished = not dropped and fault.eof_after is None and fault.error_after is None
    return Script(tuple(steps), dropped=dropped, finished=finished)


def _steps(answer: Answer, message_id: str, ping_every: int) -> Iterator[Step]:
    yield Step(Kind.AT_ONCE, sse.message_start(answer, message_id))
    count = 0
    for index, block in enumerate(answer.blocks):
        yield Step(Kind.AT_ONCE, sse.block_start(index, block))
        if index == 0:
            yield Step(Kind.AT_ONCE, sse.PING)
        kind = Kind.STAMPED_DELTA if block.stamped else Kind.DELTA
        for data in sse.deltas(index, block):
            yield Step(kind, data)
            count += 1
            if ping_every and count % ping_every == 0:
                yield Step(Kind.AT_ONCE, sse.PING)
        yield Step(Kind.AT_ONCE, sse.block_stop(index))
    yield Step(Kind.AT_ONCE, sse.message_delta(answer))
    yield Step(Kind.AT_ONCE, sse.STOP)


def _ending(
    fault: Fault, steps: list[Step], places: list[int], request_id: str | None
) -> tuple[int, list[Step], bool]:
    """Return the step at which the fault ends the stream, what is written then, and if it drops."""
    stop = len(steps) - 1
    if fault.drop_mid_char is not None:
        place, half = _inside_a_character(fault.drop_mid_char, steps, places)
        return place, [Step(Kind.AT_ONCE, half)], True
    if fault.disconnect_after is not None:
        return _place(fault.disconnect_after, places, stop), [], True
    if fault.error_after is not None:
        data = sse.error_event(_error(fault).envelope(request_id))
        return _place(fault.error_after, places, stop), [Step(Kind.AT_ONCE, data)], False
    if fault.eof_after is not None:
        return _place(fault.eof_after, places, stop), [], False
    return len(steps), [], False


def _error(fault: Fault) -> ApiError:
    kind = fault.error_type or "overloaded_error"
    return ApiError(kind, fault.message or "", error_code=fault.error_code)


def _place(position: Position, places: list[int], stop: int) -> int:
    """Return the step before which `position` deltas have been written; `stop` is message_stop."""
    if position == "stop":
        return stop
    count = len(places) if position == "last" else position
    if count < 0:
        count = max(0, len(places) + count)
    if count < len(places):
        return places[count]
    return places[-1] + 1 if places else 1


def _inside_a_character(
    position: Position, steps: list[Step], places: list[int]
) -> tuple[int, bytes]:
    """Return the first delta from `position` on with a multi-byte character, cut inside it."""
    start = _place(position, places, len(steps) - 1)
    for place in [each for each in places if each >= start] + places:
        data = steps[place].data
        for offset, byte in enumerate(data):
            if byte >= 0xC0:
                return place, data[: offset + 1]
    data = steps[start].data if start < len(steps) else b""
    return start, data[: len(data) // 2]
