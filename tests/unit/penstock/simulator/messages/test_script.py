"""The script of a stream, as bytes."""

from typing import Any

import orjson
import pytest

from penstock.simulator.faults.directives import Shape
from penstock.simulator.faults.fault import Fault
from penstock.simulator.messages.answers import Answer, compose
from penstock.simulator.messages.block import Block
from penstock.simulator.messages.script import ActionKind, Script, build_script

ANSWER = Answer(
    model="claude-haiku-4-5",
    blocks=(
        Block(kind="thinking", pieces=("hm", "m"), signature="sig"),
        Block(kind="text", pieces=("né", "日本", "ok.")),
        Block(kind="tool_use", pieces=("", '{"a"', ":1}"), name="t", id="toolu_1"),
    ),
    stop_reason="tool_use",
    stop_sequence=None,
    input_tokens=7,
    output_tokens=8,
    thinking_tokens=2,
)
DELTAS = 9


def script(fault: Fault | None = None, answer: Answer = ANSWER) -> Script:
    """The script of an answer."""
    return build_script(answer, "msg_1", fault=fault, ping_every=4, request_id="req_1")


def events(found: Script) -> list[dict[str, Any]]:
    """The data of each event, its name checked."""
    raw = b"".join(action.data for action in found.actions)
    assert raw.endswith(b"\n\n")
    parsed = []
    for event in raw.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        parsed.append(orjson.loads(data.removeprefix("data: ")))
        assert name == f"event: {parsed[-1]['type']}"
    return parsed


def deltas(found: Script) -> int:
    """The number of deltas that a script writes."""
    return sum(
        action.kind in (ActionKind.DELTA, ActionKind.STAMPED_DELTA) for action in found.actions
    )


def test_a_stream_has_the_events_of_the_api_in_order() -> None:
    """From message_start to message_stop, with pings in between."""
    found = [e["type"] for e in events(script()) if e["type"] != "ping"]
    block = ["content_block_start", "content_block_stop"]
    assert found == [
        "message_start",
        *(block[0], *["content_block_delta"] * 3, block[1]) * 3,
        *("message_delta", "message_stop"),
    ]
    assert sum(e["type"] == "ping" for e in events(script())) == 3


def test_each_block_has_its_own_kind_of_delta() -> None:
    """A signature comes last in a thinking block; a tool's input comes in pieces."""
    found = [e["delta"] for e in events(script()) if e["type"] == "content_block_delta"]
    assert [d["type"] for d in found] == [
        *("thinking_delta", "thinking_delta", "signature_delta"),
        *["text_delta"] * 3,
        *["input_json_delta"] * 3,
    ]
    assert "".join(d.get("partial_json", "") for d in found) == '{"a":1}'


def test_the_usage_of_a_stream_is_cumulative() -> None:
    """One output token at the start, all of them at the end."""
    found = {e["type"]: e for e in events(script())}
    start = found["message_start"]["message"]["usage"]
    assert (start["input_tokens"], start["output_tokens"]) == (7, 1)
    assert found["message_start"]["message"]["stop_reason"] is None
    assert found["message_delta"]["usage"]["output_tokens"] == 8
    assert found["message_delta"]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("position", "count"),
    [(0, 0), (4, 4), (-1, 8), (-99, 0), ("last", DELTAS), (99, DELTAS), ("stop", DELTAS)],
)
def test_a_stream_is_cut_after_that_many_deltas(position: Any, count: int) -> None:
    """Counted across blocks, or from the end; message_stop never comes."""
    for name in ("disconnect_after", "eof_after", "error_after"):
        found = script(Fault.parse({name: position}))
        assert deltas(found) == count
        assert not found.complete
        assert found.disconnects == (name == "disconnect_after")
        assert events(found)[-1]["type"] != "message_stop"


def test_a_stream_can_be_cut_just_before_message_stop() -> None:
    """The stop reason and the usage have been sent by then."""
    for fault in (Fault(eof_after="stop"), Fault(disconnect_after="stop")):
        assert [e["type"] for e in events(script(fault))] == [
            e["type"] for e in events(script())[:-1]
        ]
    stalled = script(Fault(stall_after="stop"))
    assert [action.kind for action in stalled.actions[-2:]] == [
        ActionKind.STALL,
        ActionKind.IMMEDIATE,
    ]


def test_an_error_event_is_the_last_of_a_stream() -> None:
    """In the envelope of the API."""
    found = script(Fault(error_after=2, error_type="api_error", message="Oh."))
    assert events(found)[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": "Oh."},
        "request_id": "req_1",
    }


def test_a_stall_comes_between_two_deltas() -> None:
    """The stream continues after it."""
    found = script(Fault(stall_after=4, stall=1.5))
    place = next(i for i, action in enumerate(found.actions) if action.kind is ActionKind.STALL)
    assert found.actions[place].seconds == 1.5
    assert deltas(Script(found.actions[:place])) == 4
    assert found.complete


def test_a_stall_can_come_before_a_disconnect() -> None:
    """Both at the same position."""
    found = script(Fault(stall_after=4, stall=1, disconnect_after=4))
    assert found.actions[-1].kind is ActionKind.STALL
    assert found.disconnects


@pytest.mark.parametrize(("position", "whole", "head"), [(0, 3, "n"), (4, 4, ""), ("last", 3, "n")])
def test_drop_mid_char_cuts_the_first_multi_byte_character(
    position: Any, whole: int, head: str
) -> None:
    """From a delta on, or anywhere."""
    found = script(Fault(drop_mid_char=position))
    assert (deltas(found), found.disconnects) == (whole, True)
    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        found.actions[-1].data.decode()
    assert found.actions[-1].data[:-1].decode().endswith(f'"text":"{head}')


def test_a_stamped_delta_is_a_template_until_it_is_written() -> None:
    """The time is filled in then."""
    body = {
        "model": "claude-opus-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "x"}],
    }
    found = script(answer=compose(body, Shape(stamp=True, deltas=3)))
    assert [s.data.count(b"%d ") for s in found.actions if s.kind is ActionKind.STAMPED_DELTA] == [
        1,
        1,
        1,
    ]
