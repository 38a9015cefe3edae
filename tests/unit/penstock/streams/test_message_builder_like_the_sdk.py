"""MessageBuilder builds what the anthropic SDK builds from the same bytes."""

from typing import Any

import anthropic
import httpx2
import orjson
import pytest
from anthropic.types import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.streams.message_builder import MessageBuilder
from tasks.api.sse import SSEDecoder

Data = dict[str, Any]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({place % (len(text) + 1) for place in places})
    return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Data, list[Data]]:
    """The start of a content block, and its deltas."""
    kind = draw(st.sampled_from(["text", "thinking", "tool_use", "cited", "redacted_thinking"]))
    places = draw(st.lists(st.integers(0, 100), max_size=4))
    if kind == "thinking":
        thought: list[Data] = [
            {"type": "thinking_delta", "thinking": p} for p in cut(draw(texts), places)
        ]
        signed: list[Data] = [{"type": "signature_delta", "signature": draw(texts)}]
        return {"type": kind, "thinking": "", "signature": ""}, [*thought, *signed]
    if kind == "tool_use":
        value = draw(st.dictionaries(texts, texts | st.integers(-9, 9) | st.none(), max_size=3))
        pieces = ["", *cut(orjson.dumps(value).decode(), places)] if value else [""]
        inputs: list[Data] = [{"type": "input_json_delta", "partial_json": p} for p in pieces]
        return {"type": kind, "id": "toolu_1", "name": "f", "input": {}}, inputs
    if kind == "redacted_thinking":
        return {"type": kind, "data": draw(texts)}, []
    deltas: list[Data] = [{"type": "text_delta", "text": p} for p in cut(draw(texts), places)]
    if kind == "cited":
        cited = {
            "type": "char_location",
            "cited_text": draw(texts),
            "document_index": 0,
            "document_title": None,
            "start_char_index": 0,
            "end_char_index": 1,
        }
        deltas += [{"type": "citations_delta", "citation": cited}] * draw(st.integers(1, 2))
    return {"type": "text", "text": ""}, deltas


def answer(content: list[tuple[Data, list[Data]]], stop_reason: str = "end_turn") -> list[Data]:
    """All events of an answer with these blocks."""
    message: Data = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 3},
    }
    events: list[Data] = [{"type": "message_start", "message": message}]
    for index, (start, deltas) in enumerate(content):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events.append({"type": "ping"})
        events += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": None, "stop_details": None},
            "usage": {"output_tokens": 40, "server_tool_use": {"web_search_requests": 2}},
        }
    )
    return [*events, {"type": "message_stop"}]


def wire(events: list[Data]) -> bytes:
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event))
        for event in events
    )


def by_the_sdk(body: bytes) -> Message:
    """The final message of the SDK's own stream over these bytes."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body, headers=headers))
    http = httpx2.Client(transport=transport)
    with (
        anthropic.Anthropic(api_key="k", http_client=http, max_retries=0) as api,
        api.messages.stream(
            model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        ) as stream,
    ):
        return stream.get_final_message()


def by_us(body: bytes) -> Message:
    builder = MessageBuilder()
    for raw in SSEDecoder().feed(body):
        builder.apply(orjson.loads(raw))
    assert builder.message is not None
    assert builder.content == builder.message["content"]
    return Message.construct(**builder.message)


def plain(message: Message) -> Data:
    return message.model_dump(mode="json", exclude_none=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(blocks(), max_size=5))
def test_any_answer_is_built_as_the_sdk_builds_it(content: list[tuple[Data, list[Data]]]) -> None:
    body = wire(answer(content))
    assert plain(by_us(body)) == plain(by_the_sdk(body))


@pytest.mark.parametrize("piece", ['{"city": "Par', '{"a": {"b": [1, 2', '{"a": 1,', "{"])
def test_a_tool_input_that_was_cut_is_built_as_the_sdk_builds_it(piece: str) -> None:
    start = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece}]
    body = wire(answer([(start, deltas)], stop_reason="max_tokens"))
    assert plain(by_us(body)) == plain(by_the_sdk(body))
