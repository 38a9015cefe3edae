"""Responses that are not what the API sends: each harms only its own request."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.errors import RequestFailed
from penstock.streams.stream import StreamRequest
from tests.acceptance.scripted_api import (
    END,
    MESSAGE,
    START,
    Reply,
    ScriptedApi,
    answer,
    block,
    delta,
    sse,
)
from tests.acceptance.stage import Stage, content, events_of, request_body

WHOLE = {
    **MESSAGE,
    "content": [{"type": "text", "text": "It was paid for."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 10, "output_tokens": 9},
}


def ending(**changed: Any) -> dict[str, Any]:
    return {**END[1], **changed}


#: Name of a reply → the reply, and what the error says.
MALFORMED: dict[str, tuple[Reply, str]] = {
    "a piece that is null": (
        Reply(sse(START, block(), delta(text=None))),
        "content_block_delta.delta.text is not a text (null)",
    ),
    "a piece of JSON that is null": (
        Reply(
            sse(
                START,
                block(type="tool_use", id="t", name="f", input={}),
                delta(type="input_json_delta", partial_json=None),
            )
        ),
        "content_block_delta.delta.partial_json is not a text (null)",
    ),
    "a thought that is a list": (
        Reply(
            sse(
                START,
                block(type="thinking", thinking=""),
                delta(type="thinking_delta", thinking=[]),
            )
        ),
        "content_block_delta.delta.thinking is not a text ([])",
    ),
    "a stop reason that is an object": (
        Reply(sse(START, block(), delta(text="a"), END[0], ending(delta={"stop_reason": {}}))),
        "message_delta.delta.stop_reason is not a text or null ({})",
    ),
    "a token count that is a text": (
        Reply(sse(START, block(), END[0], ending(usage={"output_tokens": "9"}))),
        'message_delta.usage.output_tokens is not a number or null ("9")',
    ),
    "a delta without its block": (
        Reply(sse(START, delta(text="lost"), *END)),
        "content_block_delta.index is 0",
    ),
    "a delta without an index": (
        Reply(sse(START, block(), {"type": "content_block_delta", "delta": {"type": "x"}})),
        "content_block_delta.index is not a block number (null)",
    ),
    "a missing block": (
        Reply(sse(START, block(0), END[0], block(2))),
        "content_block_start.index is 2, but 1 is next",
    ),
    "an end before the start": (Reply(sse(*END)), "message_delta is before message_start"),
    "deep nesting": (
        Reply(sse(START, b'data: {"type":"x","y":' + b"[" * 2000 + b"]" * 2000 + b"}\n\n")),
        "nested too deeply",
    ),
    "a page": (
        Reply(b"<!DOCTYPE html>\n<title>Welcome to the wifi</title>", "text/html"),
        "(content type text/html): <!DOCTYPE html> <title>Welcome to the wifi</title>",
    ),
    "OpenAI's answer": (
        Reply(b'{"object":"chat.completion","choices":[]}', "application/json"),
        '{"object":"chat.completion"',
    ),
    "OpenAI's error": (
        Reply(sse(b'data: {"error":{"message":"No.","type":"no_such","code":7}}\n\n')),
        "No.",
    ),
    "nothing": (Reply(b""), "the response is empty"),
    "an end without a stop reason": (
        Reply(sse(START, block(), delta(text="a"), END[0], ending(delta={}), END[2])),
        "message_stop is before any stop_reason",
    ),
    "brotli": (
        Reply(b"\x1b\x30\x00\xf8\x25\x00", headers={"Content-Encoding": "br"}),
        "content encoding br",
    ),
}

#: Name of a reply → the reply, and its text.
GOOD: dict[str, tuple[Reply, str]] = {
    "plain": (Reply(answer("Water", " flows.")), "Water flows."),
    "a character in two halves": (
        Reply(answer("Water \ud83d", "\udeb0 flows.")),
        "Water \N{POTABLE WATER SYMBOL} flows.",
    ),
    "half a character": (Reply(answer("Water \ud83d", ".")), "Water \ufffd."),
    "a whole message": (Reply(json.dumps(WHOLE).encode(), "application/json"), "It was paid for."),
    "a whole message as an event": (Reply(sse(WHOLE)), "It was paid for."),
    "data in several lines": (
        Reply(answer("One\nline.").replace(b', "delta": ', b',\ndata: "delta": ')),
        "One\nline.",
    ),
    "a label of gzip on plain text": (
        Reply(answer("Plain."), headers={"Content-Encoding": "gzip"}),
        "Plain.",
    ),
    "gzip without a label": (Reply(gzip.compress(answer("Packed."))), "Packed."),
    "gzip": (
        Reply(gzip.compress(answer("Packed.")), headers={"Content-Encoding": "gzip"}),
        "Packed.",
    ),
    "a byte order mark and CRLF": (
        Reply(b"\xef\xbb\xbf" + answer("Marked.").replace(b"\n", b"\r\n")),
        "Marked.",
    ),
    "no blank line at the end": (Reply(answer("Short.").rstrip(b"\n")), "Short."),
    "text in the start of its block": (
        Reply(sse(START, block(text="First, "), delta(text="second."), *END)),
        "First, second.",
    ),
    "a second start and stop": (
        Reply(sse(START, START, block(), delta(text="Once."), END[0], *END, b"data: [DONE]\n\n")),
        "Once.",
    ),
    "comments and unknown events": (
        Reply(
            sse(b": hello\n\nevent: ping\ndata:\n\n", START, {"type": "new", "x": 1})
            + sse(block(), delta(text="Known."), delta(type="new_delta", y={}), *END)
        ),
        "Known.",
    ),
}


@pytest.fixture(scope="module")
def api() -> Iterator[ScriptedApi]:
    replies = {name: reply for name, (reply, _) in {**MALFORMED, **GOOD}.items()}
    with ScriptedApi(replies) as api:
        yield api


@pytest.fixture(scope="module")
def stage(api: ScriptedApi) -> Iterator[Stage]:
    with Stage() as stage:
        stage.launch(ANTHROPIC_BASE_URL=api.url)
        stage.ready()
        yield stage


@pytest.fixture(scope="module")
def requests(stage: Stage) -> dict[str, StreamRequest]:
    """All of them at the same time, good and malformed ones in turn."""
    names = [name for pair in zip(MALFORMED, [*GOOD, *GOOD], strict=False) for name in pair]
    names += [name for name in {**MALFORMED, **GOOD} if name not in names]
    return {
        name: stage.client.messages.enqueue(**request_body(name)) for name in dict.fromkeys(names)
    }


@pytest.mark.parametrize("name", GOOD)
def test_a_good_stream_arrives_exactly_next_to_malformed_ones(
    requests: dict[str, StreamRequest], stage: Stage, api: ScriptedApi, name: str
) -> None:
    text = GOOD[name][1]
    events = events_of(requests[name])
    assert events[-1].data["state"] == "done", events[-1].data
    assert content(events) == [{"type": "text", "text": text}]
    assert requests[name].text() == text
    assert "".join(requests[name].stream().text_stream) == text
    assert events[-1].data["characters"] == len(text)
    assert api.calls[name] == 1
    for _, fields in stage.connection.xrange(f"penstock:{{{requests[name].id}}}:log"):
        assert "\n" not in fields["d"]
        strict(fields["d"])


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_stream_fails_after_two_calls_with_an_error_that_shows_what_arrived(
    requests: dict[str, StreamRequest], api: ScriptedApi, name: str
) -> None:
    with pytest.raises(RequestFailed) as failed:
        requests[name].result(timeout=60)
    assert MALFORMED[name][1] in failed.value.error["message"]
    assert api.calls[name] <= 2


def test_the_worker_still_ends_at_sigterm(requests: dict[str, StreamRequest], stage: Stage) -> None:
    for request in requests.values():
        list(request.events(timeout=60))
    [worker] = stage.alive()
    assert worker.stop() == 0


def strict(line: str) -> None:
    """Parse JSON as strictly as JavaScript does, and check that it holds whole characters only."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.dumps(json.loads(line, parse_constant=refuse), ensure_ascii=False).encode()
