"""EventParser: what an event has to be, and what becomes of text that is not whole."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import events, json_text
from tasks.api.message_stream import StreamInterrupted
from tasks.streams.event_parser import USAGE_LIMIT, EventParser, ParsedEvent, plain_delta

Data = dict[str, Any]

START: Data = {"type": "message_start", "message": {"usage": {"input_tokens": 1}}}
BLOCK: Data = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
STOP: Data = {"type": "content_block_stop", "index": 0}


def delta(index: int = 0, **fields: Any) -> Data:
    return {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": "text_delta", **fields},
    }


def parse(raw: bytes | Data) -> list[ParsedEvent]:
    return EventParser().parse(raw if isinstance(raw, bytes) else json.dumps(raw).encode())


def at(path: str, value: Any, data: Data) -> Data:
    """A copy of an event in which the field at ``path`` has this value."""
    copy: Data = json.loads(json.dumps(data))
    holder = copy
    *names, last = path.split(".")
    for name in names:
        holder = holder.setdefault(name, {})
    holder[last] = value
    return copy


OWN_TYPES = sorted(
    value for value in vars(events).values() if isinstance(value, str) and value[:9] == "penstock."
)


@pytest.mark.parametrize("kind", [*OWN_TYPES, "penstock.", "penstock.new"])
def test_an_event_of_the_api_cannot_have_a_type_of_penstocks_own_events(kind: str) -> None:
    raw = json.dumps({"type": kind, "index": 0, "offset": 0, "state": "done", "n": 99}).encode()
    with pytest.raises(StreamInterrupted, match="its type is one of Penstock's own") as caught:
        parse(raw)
    assert caught.value.error["type"] == "invalid_response"


odd = st.sampled_from([True, 1.5, [], ["x"], -1, 10**30])
not_text = odd | st.just({})
not_index: st.SearchStrategy[Any] = st.sampled_from([True, 1.5, [], {}, -1, "0", None])
not_object = odd | st.sampled_from(["x", ""])
END: Data = {"type": "message_delta", "delta": {}, "usage": {}}
CHECKED = [
    ("index", not_index, BLOCK),
    ("content_block", not_object | st.none(), BLOCK),
    ("content_block.type", not_text | st.none(), BLOCK),
    ("content_block.text", not_text, BLOCK),
    ("content_block.citations", st.sampled_from(["x", {}, 5]), BLOCK),
    ("content_block.thinking", not_text, at("content_block.type", "thinking", BLOCK)),
    ("index", not_index, delta(text="a")),
    ("delta", not_object | st.none(), delta(text="a")),
    ("delta.type", not_text | st.none(), delta(text="a")),
    ("delta.text", not_text | st.none(), delta(text="a")),
    ("delta.thinking", not_text | st.none(), delta(type="thinking_delta")),
    ("delta.partial_json", not_text | st.none(), delta(type="input_json_delta")),
    ("delta.signature", not_text | st.none(), delta(type="signature_delta")),
    ("delta.citation", not_object | st.none(), delta(type="citations_delta")),
    ("index", not_index, STOP),
    ("message", not_object | st.none(), START),
    ("message.usage", not_object, START),
    ("message.content", st.sampled_from(["x", {}, 5]), START),
    ("message.stop_reason", not_text, START),
    ("message.usage.input_tokens", st.sampled_from(["5", -1, 10**30, [1], True, 1.5]), START),
    ("message.usage.cache_creation.ephemeral_5m_input_tokens", st.just("5"), START),
    ("delta", not_object, END),
    ("delta.stop_reason", not_text, END),
    ("delta.stop_sequence", not_text, END),
    ("delta.stop_details", not_object, END),
    ("usage", not_object, END),
    ("usage.output_tokens", st.sampled_from(["5", -1, True]), END),
    ("usage.server_tool_use.web_search_requests", st.just("5"), END),
    ("usage.iterations", st.just([{"output_tokens": "5"}]), END),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CHECKED), st.data())
def test_a_field_of_an_unexpected_type_is_named_and_its_value_shown(
    checked: tuple[str, st.SearchStrategy[Any], Data], data: st.DataObject
) -> None:
    path, values, event = checked
    value = data.draw(values)
    with pytest.raises(StreamInterrupted) as interruption:
        parse(at(path, value, event))
    error = interruption.value
    assert error.error["type"] == "invalid_response"
    assert f"{event['type']}.{path}" in error.error["message"]
    assert f"{event['type']}.{path}" in error.fault


@pytest.mark.parametrize("event", [START, END])
def test_a_usage_larger_than_the_apis_is_refused(event: Data) -> None:
    """It would be added up and stored again with each event that reports usage."""
    path = "message.usage" if event is START else "usage"
    parse(at(path, {"tier": "x" * (USAGE_LIMIT - 100)}, event))
    with pytest.raises(StreamInterrupted, match=f"{path} has more than 16 KB"):
        parse(at(path, {"x" * USAGE_LIMIT: {"output_tokens": -1}}, event))


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message_start", "message": {}},
        {"type": "message_start", "message": {"usage": None, "content": None}},
        {
            "type": "message_start",
            "message": {
                "usage": {
                    "input_tokens": 1.0,
                    "cache_read_input_tokens": None,
                    "service_tier": "standard",
                    "iterations": [{"output_tokens": 5, "type": "message"}],
                    "cache_creation": {"ephemeral_1h_input_tokens": 0},
                    "brand_new": ["x", {"y": "z"}],
                }
            },
        },
        at("content_block.text", None, BLOCK),
        at("content_block", {"type": "hologram", "text": 5, "thinking": []}, BLOCK),
        delta(text="a", new={"field": [1]}),
        {**delta(text="a"), "new": 5},
        delta(type="hologram_delta", text=7),
        {"type": "content_block_stop", "index": 0, "content_block": []},
        {"type": "message_delta"},
        {"type": "message_delta", "delta": None, "usage": None},
        {"type": "message_delta", "delta": {"stop_reason": None, "container": {"id": "c"}}},
        {"type": "message_stop", "x": []},
        {"type": "brand_new", "index": "x", "delta": 5},
    ],
)
def test_what_may_be_new_or_absent_passes_byte_for_byte(event: Data) -> None:
    raw = json.dumps(event).encode()
    assert parse(raw) == [(raw, event)]


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"{", "it is not JSON ({)"),
        (b"upstream \x00 failed", "it is not JSON (upstream failed)"),
        (b"[DONE]", "it is not JSON ([DONE])"),
        (b"[]", "it is not a JSON object ([])"),
        (b'{"type":"ping"},{"type":"ping"}', "it is not a JSON object"),
        (b"null", "it is not a JSON object (null)"),
        (b'{"no":"type"}', 'it has no type ({"no":"type"})'),
        (b'{"type":["ping"]}', "it has no type"),
        (b'{"type":"x","y":' + b"[" * 200 + b"]" * 200 + b"}", "it is nested too deeply"),
    ],
)
def test_what_is_not_an_event_is_quoted(raw: bytes, what: str) -> None:
    with pytest.raises(StreamInterrupted) as interruption:
        parse(raw)
    assert interruption.value.error["message"].startswith(f"the API sent an invalid event: {what}")


def test_a_long_value_is_shown_by_its_beginning_in_one_line() -> None:
    with pytest.raises(StreamInterrupted) as interruption:
        parse(delta(text=["a\nb" * 1000]))
    message = interruption.value.error["message"]
    assert len(message) < 250
    assert "\n" not in message


@pytest.mark.parametrize("raw", [b"", b" \n", b'{"type":"ping"}', b'{"type":"ping","x":NaN}'])
def test_empty_data_and_pings_are_ignored(raw: bytes) -> None:
    assert parse(raw) == []


FULL: Data = {"type": "", "message": ["Full."]}


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ({"type": "overloaded_error", "message": "Full."}, "overloaded_error", "Full."),
        ({"type": ["x"], "message": "Full."}, "api_error", "Full."),
        ({"type": 5}, "api_error", '{"type":5}'),
        (FULL, "api_error", json.dumps(FULL, separators=(",", ":"))),
        ({"type": "api_error", "message": {"a": 1}}, "api_error", '{"a":1}'),
        (["Full."], "api_error", '["Full."]'),
        (None, "api_error", "null"),
        ({"message": "half \ud83d"}, "api_error", "half \ufffd"),
    ],
)
def test_an_error_of_any_form_has_a_plain_type_and_message(
    error: Any, kind: str, message: str
) -> None:
    with pytest.raises(StreamInterrupted) as interruption:
        parse({"type": "error", "error": error})
    assert interruption.value.error == {"type": kind, "message": message}


def test_an_error_object_without_an_event_type_is_an_error() -> None:
    with pytest.raises(StreamInterrupted) as interruption:
        parse({"error": {"message": "Quota.", "type": "insufficient_quota", "code": 7}})
    assert interruption.value.error == {"type": "insufficient_quota", "message": "Quota."}
    assert not interruption.value.retryable


def test_what_is_not_strict_json_is_published_as_strict_json() -> None:
    raw = (
        b'{"type":"content_block_start","index":0,"content_block":{"type":"tool_use",'
        b'"input":{"a":NaN,"b":[-Infinity,1e999],"c":18446744073709551616,"\\ud83d":"\\ude00"}}}'
    )
    [(line, data)] = parse(raw)
    tool_input = {"a": None, "b": [None, None], "c": 2**64, "\ufffd": "\ufffd"}
    assert data["content_block"]["input"] == tool_input
    assert json.loads(line, parse_constant=pytest.fail) == data
    assert parse(raw.replace(b"NaN", b"1").replace(b"-Infinity", b"2")) != []


def test_an_event_of_several_lines_is_published_in_one() -> None:
    for event in (delta(text="a\nb"), BLOCK):
        raw = json.dumps(event, indent=1).encode()
        [(line, data)] = parse(raw)
        assert b"\n" not in line
        assert json.loads(line) == data == event


def test_a_whole_message_in_an_event_becomes_its_events() -> None:
    message = {"type": "message", "content": [{"type": "text", "text": "All."}], "usage": {}}
    found = parse({**message, "stop_reason": "end_turn"})
    assert [data["type"] for _, data in found] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_long_integers_alone_leave_the_bytes_unchanged() -> None:
    block = b'{"type":"x","n":18446744073709551616}'
    raw = b'{"type":"content_block_start","index":0,"content_block":' + block + b"}"
    [(line, data)] = parse(raw)
    assert (line, data["content_block"]["n"]) == (raw, 2**64)


HIGH, LOW = "\ud83d", "\ude00"
pieces = st.lists(
    st.lists(st.sampled_from(["a", '"', HIGH, LOW, HIGH + LOW]), max_size=3).map("".join),
    max_size=6,
)


@given(pieces, st.sampled_from(["text_delta", "thinking_delta", "input_json_delta"]), st.booleans())
def test_characters_cut_between_deltas_are_published_whole(
    parts: list[str], kind: str, with_pings: bool
) -> None:
    field = {"text_delta": "text", "thinking_delta": "thinking"}.get(kind, "partial_json")
    parser, found = EventParser(), list[ParsedEvent]()
    for part in parts:
        event = {"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: part}}
        found += parser.parse(json.dumps(event).encode())
        if with_pings:
            found += parser.parse(b'{"type":"ping"}') + parser.parse(b'{"type":"new"}')
    found += parser.parse(json.dumps(STOP).encode())
    whole = "".join(parts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    deltas = [data["delta"] for _, data in found if data["type"] == "content_block_delta"]
    assert "".join(each[field] for each in deltas) == whole
    assert found[-1][1] == STOP
    assert all(orjson.loads(line) == data for line, data in found)
    assert not parser.waits


@pytest.mark.parametrize(
    "boundary", [BLOCK, STOP, {"type": "message_delta"}, {"type": "message_stop"}]
)
def test_a_half_is_replaced_before_whatever_ends_its_block(boundary: Data) -> None:
    parser = EventParser()
    parser.parse(json.dumps(delta(text="a" + HIGH)).encode())
    assert parser.waits
    shown = [data for _, data in parser.parse(json.dumps(boundary).encode())]
    assert shown == [delta(text="\ufffd"), boundary]


def test_a_plain_delta_is_one_that_needs_no_further_look() -> None:
    assert plain_delta(orjson.dumps(delta(text="a"))) == delta(text="a")
    for other in (BLOCK, delta(text="a", new=1), {**delta(text="a"), "new": 1}, delta(text=None)):
        assert plain_delta(orjson.dumps(other)) is None
    assert plain_delta(b'{"type":"content_block_delta","index":true,"delta":{}}') is None


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda x: st.lists(x)))
def test_any_value_in_an_unknown_field_is_published_as_strict_json(value: Any) -> None:
    raw = json_text.dumps({"type": "new", "x": value})
    [(line, data)] = parse(raw)
    assert json.loads(line, parse_constant=pytest.fail) == data
    assert not (isinstance(data["x"], float) and math.isnan(data["x"]))
