"""A live call's response becomes a message, or an error that quotes it."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.api.live_message import CallFailed, read_message, until

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
}
END = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 9, "input_tokens": None},
    "context_management": {"applied_edits": []},
}
STOP = {"type": "message_stop"}


def block(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": fields}


def delta(index: int, type: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": type, **fields}}


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {event.get('type')}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


def test_a_streamed_message_has_what_a_message_in_one_piece_has() -> None:
    message = read_message(
        [
            stream(
                START,
                {"type": "ping"},
                block(0, type="thinking", thinking="", signature=""),
                delta(0, "thinking_delta", thinking="so "),
                delta(0, "thinking_delta", thinking="it is"),
                delta(0, "signature_delta", signature="abc"),
                {"type": "content_block_stop", "index": 0},
                block(1, type="text", text="In"),
                delta(1, "text_delta", text=" the"),
                delta(1, "citations_delta", citation={"type": "char_location"}),
                delta(1, "text_delta", text=" end"),
                block(2, type="tool_use", id="t", name="n", input={}),
                delta(2, "input_json_delta", partial_json='{"a": 18446744'),
                delta(2, "input_json_delta", partial_json="073709551616}"),
                block(3, type="tool_use", id="u", name="n", input={}),
                delta(3, "input_json_delta", partial_json=""),
                block(4, type="compaction", content=None),
                delta(4, "compaction_delta", content="short", encrypted_content="e"),
                {"type": "an event of next year"},
                END,
                STOP,
            )
        ]
    )
    assert message["content"] == [
        {"type": "thinking", "thinking": "so it is", "signature": "abc"},
        {"type": "text", "text": "In the end", "citations": [{"type": "char_location"}]},
        {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 18446744073709551616}},
        {"type": "tool_use", "id": "u", "name": "n", "input": {}},
        {"type": "compaction", "content": "short", "encrypted_content": "e"},
    ]
    assert message["usage"] == {"input_tokens": 3, "output_tokens": 9}
    assert (message["stop_reason"], message["id"]) == ("end_turn", "msg_1")
    assert message["context_management"] == {"applied_edits": []}


@given(st.text(), st.integers(1, 7), st.integers(1, 9))
def test_a_text_is_the_same_however_it_is_cut(text: str, pieces: int, chunk: int) -> None:
    units = [chr(unit) for unit in memoryview(text.encode("utf-16-le")).cast("H")]
    size = max(1, len(units) // pieces)
    deltas = [
        delta(0, "text_delta", text="".join(units[at : at + size]))
        for at in range(0, len(units), size)
    ]
    body = stream(START, block(0, type="text", text=""), *deltas, END, STOP)
    message = read_message(body[at : at + chunk] for at in range(0, len(body), chunk))
    got = message["content"][0]["text"]
    assert got.encode("utf-16-le", "surrogatepass") == text.encode("utf-16-le")


def test_a_stream_that_lacks_only_its_last_event_is_complete() -> None:
    body = stream(START, block(0, type="text", text="all"), END)
    assert read_message([body])["content"][0]["text"] == "all"


def test_nothing_is_read_after_the_last_event() -> None:
    """A gateway may keep the connection open."""

    def received() -> Iterator[bytes]:
        yield stream(START, block(0, type="text", text="all"), END, STOP)
        pytest.fail("the response was read on")

    assert read_message(received())["stop_reason"] == "end_turn"


def test_a_tool_input_that_max_tokens_has_cut_is_kept_as_text() -> None:
    tool = block(0, type="tool_use", id="t", name="n", input={})
    cut = {**END, "delta": {"stop_reason": "max_tokens"}}
    body = stream(START, tool, delta(0, "input_json_delta", partial_json='{"a": [1,'), cut, STOP)
    assert read_message([body])["content"][0]["input"] == '{"a": [1,'


@pytest.mark.parametrize(
    ("body", "type", "words"),
    [
        (b"", "unexpected_response", "empty"),
        (b"  \n ", "unexpected_response", "empty"),
        (b"<html>Log in</html>", "unexpected_response", "<html>Log in"),
        (b"Bad Gateway", "unexpected_response", "Bad Gateway"),
        (b"\x1f\x8b\x08gzip", "unexpected_response", "gzip"),
        (b'{"half":', "unexpected_response", '{"half":'),
        (b"[" * 100_000, "unexpected_response", "[[["),
        (b'{"type":"message","content":"text"}', "unexpected_response", "content"),
        (b'{"type":"message","content":[null]}', "unexpected_response", "content"),
        (
            b'{"error":{"type":"invalid_request_error","message":"no"}}',
            "invalid_request_error",
            "no",
        ),
        (b'{"error":{"message":["odd"]}}', "api_error", "odd"),
        (stream({"type": "error", "error": {"type": "overloaded_error"}}), "overloaded_error", ""),
        (stream({"type": "error", "error": None}), "api_error", ""),
        (stream(START), "incomplete_stream", "ended"),
        (stream({"type": "message_start", "message": None}), "malformed_event", "message_start"),
        (stream({"type": "message_start"}), "malformed_event", "message_start"),
        (stream(START, block(1, type="text")), "malformed_event", "the index is 1"),
        (stream(START, delta(0, "text_delta", text="x")), "malformed_event", "delta"),
        (
            stream(
                START, block(0, type="tool_use"), delta(0, "input_json_delta", partial_json=None)
            ),
            "malformed_event",
            "partial_json",
        ),
        (stream(START, {"type": "message_delta", "delta": 1, "usage": {}}), "malformed_event", ""),
        (stream(START) + b"data: {broken\n\n", "malformed_event", "{broken"),
        (stream(START) + b"data: 7\n\n", "malformed_event", "7"),
    ],
)
def test_what_is_not_a_message_is_quoted(body: bytes, type: str, words: str) -> None:
    with pytest.raises(CallFailed) as raised:
        read_message([body])
    assert raised.value.type == type
    assert words in str(raised.value)
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize(
    ("events", "refused"),
    [
        ([{"type": "error", "error": {"type": "overloaded_error"}}], True),
        ([{"type": "ping"}, {"type": "error", "error": {"type": "rate_limit_error"}}], True),
        ([{"type": "error", "error": {"type": "invalid_request_error"}}], False),
        ([START, {"type": "error", "error": {"type": "overloaded_error"}}], False),
    ],
)
def test_an_error_that_may_pass_is_a_refusal_until_the_answer_begins(
    events: list[dict[str, Any]], refused: bool
) -> None:
    with pytest.raises(CallFailed) as raised:
        read_message([stream(*events)])
    assert raised.value.refused is refused


def test_the_error_quotes_the_beginning_of_a_long_response_in_one_line() -> None:
    with pytest.raises(CallFailed, match="begins with 'word word word") as raised:
        read_message([200 * b"word\n"])
    assert len(str(raised.value)) < 250
    assert "\n" not in str(raised.value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_no_value_in_an_event_raises_anything_else(odd: Any) -> None:
    for events in (
        [{"type": "message_start", "message": odd}],
        [START, {"type": "content_block_start", "index": odd, "content_block": odd}],
        [START, block(0, type=odd, text=odd), delta(0, "text_delta", text=odd), END, STOP],
        [START, block(0, type="text", text=""), delta(0, "text_delta", text=odd), END, STOP],
        [START, {"type": "content_block_delta", "index": 0, "delta": odd}],
        [START, {**END, "usage": odd}, STOP],
        [START, block(0, type="text", text=odd), delta(0, "text_delta", text="more"), END, STOP],
        [{"type": odd}],
    ):
        with contextlib.suppress(CallFailed):
            assert read_message([stream(*events)])["type"] == "message"


def test_an_answer_that_does_not_end_is_ended() -> None:
    clock = itertools.count()
    pings = itertools.repeat(stream({"type": "ping"}))
    with pytest.raises(CallFailed, match="took longer"):
        read_message(until(9, pings, lambda: next(clock)))


@pytest.mark.parametrize("piece", [b"data: ", b"{"])
def test_an_answer_without_an_end_does_not_fill_the_memory(piece: bytes) -> None:
    with pytest.raises(CallFailed, match="more than 32 MB"):
        read_message(itertools.chain([piece], itertools.repeat(b"x" * 1_000_000)))


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        ({"type": "overloaded_error"}, True),
        ({"type": "rate_limit_error"}, True),
        ({"type": "api_error"}, False),
        ({"type": "timeout_error"}, False),
        (["odd"], False),
    ],
)
def test_only_a_call_that_was_refused_is_free(error: Any, refused: bool) -> None:
    with pytest.raises(CallFailed) as raised:
        read_message([stream({"type": "error", "error": error})])
    assert raised.value.refused is refused
