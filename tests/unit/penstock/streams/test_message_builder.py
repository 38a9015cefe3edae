"""MessageBuilder: a Message from its events, step by step."""

from typing import Any

import pytest

from penstock.streams.message_builder import MessageBuilder

Data = dict[str, Any]
USAGE = {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 2}


def started(**fields: Any) -> Data:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [],
        "stop_reason": None,
        "usage": USAGE,
        **fields,
    }
    return {"type": "message_start", "message": message}


def block(index: int, **fields: Any) -> Data:
    return {"type": "content_block_start", "index": index, "content_block": fields}


def delta(index: int, kind: str, **fields: Any) -> Data:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def text(index: int, *pieces: str) -> list[Data]:
    first = block(index, type="text", text="")
    return [first, *(delta(index, "text_delta", text=piece) for piece in pieces)]


def stop(index: int) -> Data:
    return {"type": "content_block_stop", "index": index}


def tool(index: int, *pieces: str) -> list[Data]:
    first = block(index, type="tool_use", id="t1", name="f", input={})
    return [first, *(delta(index, "input_json_delta", partial_json=piece) for piece in pieces)]


def rewind(index: int, offset: int) -> Data:
    return {"type": "penstock.rewind", "index": index, "offset": offset}


def built(*events: Data) -> MessageBuilder:
    builder = MessageBuilder()
    for event in events:
        builder.apply(event)
    return builder


def test_text_is_joined_from_its_deltas() -> None:
    builder = built(started(), *text(0, "Hel", "", "lo"), stop(0))
    assert builder.content == [{"type": "text", "text": "Hello"}]


def test_the_text_of_an_open_block_can_be_read_at_any_time() -> None:
    builder = built(started(), *text(0, "a"))
    assert builder.content[0]["text"] == "a"
    assert builder.content[0]["text"] == "a"  # reading changes nothing
    builder.apply(delta(0, "text_delta", text="b"))
    assert builder.content[0]["text"] == "ab"
    builder.apply(stop(0))
    assert builder.content[0]["text"] == "ab"


def test_text_in_the_start_of_a_block_is_kept() -> None:
    builder = built(started(), block(0, type="text", text="a"), delta(0, "text_delta", text="b"))
    assert builder.content[0]["text"] == "ab"


def test_thinking_keeps_its_signature() -> None:
    builder = built(
        started(),
        block(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="Let me "),
        delta(0, "thinking_delta", thinking="see"),
        delta(0, "signature_delta", signature="sig=="),
        stop(0),
    )
    assert builder.content == [{"type": "thinking", "thinking": "Let me see", "signature": "sig=="}]


@pytest.mark.parametrize(
    ("pieces", "value"),
    [
        ([], {}),
        ([""], {}),
        (["", ""], {}),
        (["{}"], {}),
        (['{"a"', ': "\\u2028é', '", "b": [1, 2', "]}"], {"a": "\u2028é", "b": [1, 2]}),
    ],
)
@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use"])
def test_tool_input_is_parsed_when_its_block_stops(
    kind: str, pieces: list[str], value: Data
) -> None:
    events = [{**event, "index": 0} for event in tool(0, *pieces)]
    events[0]["content_block"]["type"] = kind
    builder = built(started(), *events, stop(0))
    assert builder.content == [{"type": kind, "id": "t1", "name": "f", "input": value}]


@pytest.mark.parametrize(
    ("cut", "value"),
    [('{"a": 1, "b": "tw', {"a": 1}), ('{"a": [1, 2', {"a": [1, 2]}), ("{", {})],
)
def test_tool_input_cut_off_by_max_tokens_keeps_the_message_readable(cut: str, value: Data) -> None:
    last = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {}}
    builder = built(started(), *tool(0, cut), stop(0), last, {"type": "message_stop"})
    assert builder.content[0]["input"] == value
    assert builder.message is not None
    assert builder.message["stop_reason"] == "max_tokens"


def test_tool_input_that_is_not_json_does_not_stop_the_reader() -> None:
    builder = built(started(), *tool(0, '{"a": nonsense}'), stop(0), *text(1, "b"), stop(1))
    assert builder.content[1]["text"] == "b"


def test_citations_are_gathered() -> None:
    builder = built(
        started(),
        block(0, type="text", text="", citations=None),
        delta(0, "text_delta", text="see"),
        delta(0, "citations_delta", citation={"n": 1}),
        delta(0, "citations_delta", citation={"n": 2}),
        stop(0),
    )
    assert builder.content == [{"type": "text", "text": "see", "citations": [{"n": 1}, {"n": 2}]}]


def test_content_that_was_read_does_not_change_when_citations_follow() -> None:
    first: Data = {"type": "text", "text": "", "citations": [{"n": 0}]}
    builder = built(started(), block(0, **first))
    read = builder.content
    builder.apply(delta(0, "citations_delta", citation={"n": 1}))
    assert (read[0]["citations"], first["citations"]) == ([{"n": 0}], [{"n": 0}])
    assert builder.content[0]["citations"] == [{"n": 0}, {"n": 1}]


def test_blocks_stay_apart_and_in_order() -> None:
    builder = built(
        started(), *text(0, "a"), stop(0), *tool(1, '{"x":1}'), stop(1), *text(2, "b"), stop(2)
    )
    assert [b["type"] for b in builder.content] == ["text", "tool_use", "text"]
    assert [b.get("text", b.get("input")) for b in builder.content] == ["a", {"x": 1}, "b"]


def test_usage_and_stop_reason_come_at_the_end_and_null_changes_nothing() -> None:
    finish = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 12, "input_tokens": None},
    }
    message = built(started(), finish, {"type": "message_stop"}).message
    assert message is not None
    assert message["stop_reason"] == "end_turn"
    assert message["usage"] == {**USAGE, "output_tokens": 12}


def test_the_builder_does_not_change_the_events() -> None:
    events = [started(), *text(0, "a", "b"), stop(0)]
    built(*events)
    assert events[0]["message"]["content"] == []
    assert events[1]["content_block"] == {"type": "text", "text": ""}


@pytest.mark.parametrize(
    "unknown",
    [
        {"type": "ping"},
        {"type": "penstock.queued", "id": "x"},
        {"type": "penstock.attempt", "mode": "continue"},
        {"type": "penstock.heartbeat"},
        {"type": "brand_new", "index": 7, "delta": 5},
        {},
        delta(0, "brand_new_delta", x=1),
    ],
    ids=lambda event: str(event.get("type")),
)
def test_unknown_event_types_are_skipped(unknown: Data) -> None:
    builder = built(started(), *text(0, "a"), unknown, delta(0, "text_delta", text="b"), stop(0))
    assert builder.content == [{"type": "text", "text": "ab"}]


def test_unknown_block_types_are_kept_unchanged() -> None:
    new = {"type": "hologram", "depth": 3, "data": {"x": [1]}}
    builder = built(started(), block(0, **new), stop(0), *text(1, "a"), stop(1))
    assert builder.content == [new, {"type": "text", "text": "a"}]


def test_nothing_is_built_before_the_message_has_started() -> None:
    builder = built(*text(0, "a"), stop(0), rewind(0, 0), {"type": "message_delta", "delta": {}})
    assert builder.message is None
    assert builder.content == []
    assert builder.end is None


def test_the_last_event_is_kept_and_the_text_before_it_is_joined() -> None:
    end = {"type": "penstock.end", "state": "failed"}
    builder = built(started(), *text(0, "half"), end)
    assert builder.end == end
    assert builder.message is not None
    assert builder.message["content"] == [{"type": "text", "text": "half"}]
    assert built(end).end == end  # an end without a message_start


def test_an_incomplete_tool_input_is_left_empty() -> None:
    builder = built(started(), *tool(0, '{"a": '), {"type": "penstock.end", "state": "failed"})
    assert builder.content[0]["input"] == {}


@pytest.mark.parametrize(
    ("index", "offset", "left"),
    [
        (1, 2, ["one", "tw"]),
        (1, 3, ["one", "two"]),
        (1, 99, ["one", "two"]),
        (1, 0, ["one"]),
        (0, 1, ["o"]),
        (0, 0, []),
        (2, 0, ["one", "two"]),
    ],
)
def test_a_rewind_discards_what_came_after_its_place(
    index: int, offset: int, left: list[str]
) -> None:
    builder = built(
        started(), *text(0, "o", "ne"), stop(0), *text(1, "tw", "o"), rewind(index, offset)
    )
    assert [b["text"] for b in builder.content] == left


def test_a_rewound_text_continues_where_it_was_cut() -> None:
    builder = built(
        started(),
        *text(0, "Hello wrold"),
        rewind(0, 6),
        delta(0, "text_delta", text="world"),
        stop(0),
    )
    assert builder.content == [{"type": "text", "text": "Hello world"}]


def test_a_rewound_block_may_start_again() -> None:
    builder = built(
        started(), *text(0, "a"), stop(0), *tool(1, '{"x": '), rewind(1, 0), *tool(1, "{}"), stop(1)
    )
    assert builder.content[1]["input"] == {}
    assert len(builder.content) == 2


def test_offsets_count_characters_and_not_bytes() -> None:
    builder = built(started(), *text(0, "日本", "🚰x"), rewind(0, 3))
    assert builder.content[0]["text"] == "日本🚰"


def test_a_second_message_start_discards_the_first_message() -> None:
    first = [started(id="first"), *text(0, "x"), stop(0), *text(1, "half")]
    builder = built(*first, started(id="second"), *text(0, "y"), stop(0))
    assert builder.content == [{"type": "text", "text": "y"}]
    assert builder.message is not None
    assert builder.message["id"] == "second"


def test_a_closed_block_that_was_rewound_can_continue() -> None:
    builder = built(
        started(),
        *text(0, "Hello wrold"),
        stop(0),
        rewind(0, 6),
        delta(0, "text_delta", text="world"),
        stop(0),
    )
    assert builder.content == [{"type": "text", "text": "Hello world"}]
