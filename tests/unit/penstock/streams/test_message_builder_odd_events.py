"""MessageBuilder and Transcript: odd events, inputs that are not strict JSON, and rarer deltas."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.events import Event
from penstock.streams.message_builder import MessageBuilder
from penstock.streams.transcript import Transcript
from tests.unit.penstock.streams.test_message_builder import (
    Data,
    block,
    built,
    delta,
    started,
    stop,
    text,
    tool,
)

DEEP = "[" * 500 + "]" * 500
values = st.recursive(
    st.sampled_from([None, True, 0, -1, 5, 1.5, "", "text", "text_delta", "thinking"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)
kinds = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "penstock.rewind",
        "penstock.unreadable",
    ]
)
deltas = st.sampled_from(
    ["text_delta", "thinking_delta", "input_json_delta", "signature_delta", "citations_delta", "x"]
)
parts = st.dictionaries(
    st.sampled_from(["text", "thinking", "partial_json", "citation", "citations", "stop_reason"]),
    values,
)
odd_events = st.fixed_dictionaries(
    {"type": kinds | values},
    optional={
        "index": st.sampled_from([0, 0, 1, 2]) | values,
        "delta": st.builds(lambda kind, rest: {"type": kind, **rest}, deltas | values, parts)
        | values,
        "content_block": st.builds(
            lambda kind, rest: {"type": kind, **rest},
            st.sampled_from(["text", "thinking", "tool_use", "fallback"]) | values,
            parts,
        )
        | values,
        "message": parts | values,
        "usage": values,
    },
)


@settings(max_examples=250, deadline=None)
@given(st.lists(odd_events, max_size=8))
def test_no_event_raises_an_error_in_the_loop_of_a_reader(happened: list[Data]) -> None:
    transcript = Transcript()
    flow = transcript.flow()
    for n, data in enumerate([started(), *text(0, "a"), *happened], 1):
        transcript.read(Event(1, n, data), flow)
        assert transcript.builder.message is not None
        assert isinstance(transcript.builder.text, str)


def test_what_does_not_fit_its_block_is_ignored_as_the_sdk_does() -> None:
    builder = built(
        started(),
        *text(0, "a"),
        delta(0, "input_json_delta", partial_json="{"),
        delta(0, "thinking_delta", thinking="x"),
        delta(0, "text_delta", text=None),
        stop(0),
        *tool(1, '{"a": 1'),
        delta(1, "text_delta", text="hidden"),
        delta(1, "input_json_delta", partial_json=None),
        delta(1, "input_json_delta", partial_json="}"),
        stop(1),
    )
    assert builder.content[0] == {"type": "text", "text": "a"}
    assert builder.content[1]["input"] == {"a": 1}
    assert builder.text == "a"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('{"n": 18446744073709551616}', {"n": 2**64}),
        ('{"a": "half \\ud83d"}', {"a": "half \ufffd"}),
        ('{"a": "\\ud83d\\ude00 \\ud83d", "b": 1', {"a": "\N{GRINNING FACE} \ufffd", "b": 1}),
        ('{"a": "\\\\ud83d", "b": [1, 2', {"a": "\\ud83d", "b": [1, 2]}),
        ('{"a": 1, "b": "\\ud8', {"a": 1}),
        (DEEP, {"INVALID_JSON": DEEP}),
        ("{nonsense}", {"INVALID_JSON": "{nonsense}"}),
        ("[1]", [1]),
    ],
)
def test_a_tool_input_that_is_not_strict_json_is_delivered(written: str, value: Any) -> None:
    assert built(started(), *tool(0, written), stop(0)).content[0]["input"] == value


def test_a_tool_input_with_nan_is_delivered() -> None:
    builder = built(started(), *tool(0, '{"a": NaN, "b": -Infinity}'), stop(0))
    found = builder.content[0]["input"]
    assert math.isnan(found["a"])
    assert found["b"] == -math.inf


def test_a_compaction_delta_replaces_what_the_block_has() -> None:
    first = delta(0, "compaction_delta", content="one", encrypted_content="x")
    second = delta(0, "compaction_delta", content="two", encrypted_content=None)
    builder = built(started(), block(0, type="compaction", content=None), first, second, stop(0))
    assert builder.content == [{"type": "compaction", "content": "two", "encrypted_content": None}]


def test_a_fallback_block_names_the_model_of_the_message() -> None:
    to = {"model": "claude-sonnet-5"}
    builder = built(started(), block(0, type="fallback", to=to), stop(0))
    assert builder.message is not None
    assert builder.message["model"] == "claude-sonnet-5"
    assert built(started(), block(0, type="fallback", to="x")).message is not None


def test_a_message_delta_sets_what_the_api_sends_with_it() -> None:
    ending: Data = {
        "type": "message_delta",
        "delta": {
            "stop_reason": "refusal",
            "stop_sequence": None,
            "stop_details": {"type": "refusal"},
            "container": {"id": "c2"},
        },
        "usage": {"output_tokens": 7},
        "context_management": {"applied_edits": []},
        "input_transformations": None,
    }
    first = started(container={"id": "c1"}, input_transformations=[1], stop_sequence="x")
    message = built(first, ending).message
    assert message is not None
    assert message["stop_details"] == {"type": "refusal"}
    assert message["stop_sequence"] is None
    assert message["container"] == {"id": "c2"}
    assert message["context_management"] == {"applied_edits": []}
    assert message["input_transformations"] == [1]
    unchanged = built(first, {"type": "message_delta", "delta": {"container": None}}).message
    assert unchanged is not None
    assert unchanged["container"] == {"id": "c1"}


def test_text_in_the_start_of_a_block_is_part_of_the_text_flow() -> None:
    transcript = Transcript()
    flow = transcript.flow()
    events = [started(), block(0, type="text", text="In "), delta(0, "text_delta", text="flow.")]
    shown = [transcript.read(Event(1, n, data), flow) for n, data in enumerate(events, 1)]
    assert shown == ["", "In ", "flow."]


def test_a_last_event_of_unknown_form_ends_the_reading() -> None:
    transcript = Transcript()
    transcript.apply(Event(1, 1, {"type": "penstock.end"}))
    assert not transcript.ended_well
    assert MessageBuilder().end is None
    assert json.dumps(transcript.end) == '{"type": "penstock.end"}'
