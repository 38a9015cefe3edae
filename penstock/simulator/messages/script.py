"""The script of one stream: what is written, at what pace, and how it ends."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from penstock.simulator.errors import ApiError
from penstock.simulator.faults.fault import DEFAULT_STALL_S, Fault, Position
from penstock.simulator.faults.malformed_events import changes
from penstock.simulator.messages import sse
from penstock.simulator.messages.answers import Answer


class ActionKind(Enum):
    """How an action is carried out."""

    IMMEDIATE = auto()
    DELTA = auto()  #: counted, and written when it is due
    STAMPED_DELTA = auto()  #: a delta whose bytes are a template for the time of writing
    STALL = auto()


@dataclass(frozen=True, slots=True)
class Action:
    """One write, or one stall."""

    kind: ActionKind
    data: bytes = b""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """Every action of a stream."""

    actions: tuple[Action, ...]
    #: the connection is cut after the last action, without the end of the body
    disconnects: bool = False
    complete: bool = True  #: the actions reach message_stop


def build_script(
    answer: Answer,
    message_id: str,
    *,
    fault: Fault | None = None,
    ping_every: int = 0,
    request_id: str | None = None,
) -> Script:
    """The script of a stream that carries ``answer`` and meets ``fault``."""
    actions = list(_actions(answer, message_id, ping_every))
    if fault is None:
        return Script(tuple(actions))
    if fault.malformed:
        actions = _malformed(fault.malformed, fault.at or 0, actions)
    delta_indices = _deltas(actions)
    stop = len(actions) - 1
    end, ending, disconnects = _ending(fault, actions, delta_indices, request_id)
    actions[end:] = ending
    if fault.stall_after is not None:
        stall = Action(
            ActionKind.STALL, seconds=DEFAULT_STALL_S if fault.stall is None else fault.stall
        )
        actions.insert(min(end, _index(fault.stall_after, delta_indices, stop)), stall)
    complete = not disconnects and fault.eof_after is None and fault.error_after is None
    return Script(tuple(actions), disconnects=disconnects, complete=complete)


def _actions(answer: Answer, message_id: str, ping_every: int) -> Iterator[Action]:
    yield Action(ActionKind.IMMEDIATE, sse.message_start(answer, message_id))
    count = 0
    for index, block in enumerate(answer.blocks):
        yield Action(ActionKind.IMMEDIATE, sse.block_start(index, block))
        if index == 0:
            yield Action(ActionKind.IMMEDIATE, sse.PING)
        kind = ActionKind.STAMPED_DELTA if block.stamped else ActionKind.DELTA
        for data in sse.deltas(index, block):
            yield Action(kind, data)
            count += 1
            if ping_every and count % ping_every == 0:
                yield Action(ActionKind.IMMEDIATE, sse.PING)
        yield Action(ActionKind.IMMEDIATE, sse.block_stop(index))
    yield Action(ActionKind.IMMEDIATE, sse.message_delta(answer))
    yield Action(ActionKind.IMMEDIATE, sse.STOP)


def _deltas(actions: list[Action]) -> list[int]:
    kinds = (ActionKind.DELTA, ActionKind.STAMPED_DELTA)
    return [i for i, action in enumerate(actions) if action.kind in kinds]


def _malformed(name: str, at: Position, actions: list[Action]) -> list[Action]:
    """The actions, with an event malformed."""
    delta = _index(at, _deltas(actions), len(actions) - 1)
    changed = {each.place: each.events for each in changes(name, [a.data for a in actions], delta)}
    # A delta that is malformed is no template for the time of writing any more.
    plain = {ActionKind.STAMPED_DELTA: ActionKind.DELTA}
    found: list[Action] = []
    for place, action in enumerate(actions):
        if place in changed:
            kind = plain.get(action.kind, action.kind)
            found += [Action(kind, data) for data in changed[place]]
        else:
            found.append(action)
    return found


def _ending(
    fault: Fault, actions: list[Action], delta_indices: list[int], request_id: str | None
) -> tuple[int, list[Action], bool]:
    """Where the fault ends the stream, what is written then, and if it cuts."""
    stop = len(actions) - 1
    if fault.drop_mid_char is not None:
        place, half = _inside_a_character(fault.drop_mid_char, actions, delta_indices)
        return place, [Action(ActionKind.IMMEDIATE, half)], True
    if fault.disconnect_after is not None:
        return _index(fault.disconnect_after, delta_indices, stop), [], True
    if fault.error_after is not None:
        data = sse.error_event(_error(fault).envelope(request_id))
        return (
            _index(fault.error_after, delta_indices, stop),
            [Action(ActionKind.IMMEDIATE, data)],
            False,
        )
    if fault.eof_after is not None:
        return _index(fault.eof_after, delta_indices, stop), [], False
    return len(actions), [], False


def _error(fault: Fault) -> ApiError:
    kind = fault.error_type or "overloaded_error"
    return ApiError(kind, fault.message or "", error_code=fault.error_code)


def _index(position: Position, delta_indices: list[int], stop: int) -> int:
    """The action before which ``position`` deltas are written; ``stop`` is message_stop's."""
    if position == "start":
        return 0
    if position == "stop":
        return stop
    count = len(delta_indices) if position == "last" else position
    if count < 0:
        count = max(0, len(delta_indices) + count)
    if count < len(delta_indices):
        return delta_indices[count]
    return delta_indices[-1] + 1 if delta_indices else 1


def _inside_a_character(
    position: Position, actions: list[Action], delta_indices: list[int]
) -> tuple[int, bytes]:
    """A delta from ``position`` on, cut inside its first multi-byte character."""
    start = _index(position, delta_indices, len(actions) - 1)
    for place in [each for each in delta_indices if each >= start] + delta_indices:
        data = actions[place].data
        for offset, byte in enumerate(data):
            if byte >= 0xC0:
                return place, data[: offset + 1]
    data = actions[start].data if start < len(actions) else b""
    return start, data[: len(data) // 2]
