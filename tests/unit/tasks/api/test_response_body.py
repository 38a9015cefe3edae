"""ResponseBody: whatever a gateway answers, cut anywhere."""

import gzip
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.streams.message_builder import MessageBuilder
from tasks.api import response_body, sse
from tasks.api.response_body import PIECE_BYTES, ResponseBody, ResponseTooLarge
from tasks.api.sse import InvalidResponse

EVENTS = [b'{"type":"message_start"}', b'{"type":"new","x":"a b"}', b'{"type":"message_stop"}']
STREAM = b"".join(b"event: x\ndata: %s\n\n" % event for event in EVENTS)
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": "Look: ", "citations": [{"cited_text": "x"}]},
        {"type": "tool_use", "id": "t", "name": "look", "input": {"n": 18446744073709551616}},
        {"type": "hologram", "depth": 3},
    ],
    "stop_reason": "refusal",
    "stop_sequence": None,
    "stop_details": {"type": "refusal", "category": "cyber"},
    "usage": {"input_tokens": 3, "output_tokens": 9},
}
BODIES = {
    "a stream": STREAM,
    "a byte order mark": b"\xef\xbb\xbf" + STREAM,
    "leading white space": b"\r\n \n" + STREAM,
    "CRLF": STREAM.replace(b"\n", b"\r\n"),
    "no blank line at the end": STREAM[:-2],
    "no line end at the end": STREAM[:-1],
    "gzip": gzip.compress(STREAM),
    "gzip in gzip": gzip.compress(gzip.compress(STREAM)),
    "gzip of several members": gzip.compress(STREAM[:70]) + gzip.compress(STREAM[70:]),
    "gzip and zeros": gzip.compress(STREAM) + b"\0" * 10,
    "lines of JSON": b"\n".join(EVENTS),
    "lines of JSON, the last one cut": b"\n".join([*EVENTS, b'{"ty']),
    "data alone": STREAM.replace(b"event: x\n", b""),
    "pings by name": STREAM.replace(b"event: x", b"event: ping\ndata: whatever\n\nevent: x"),
    "comments": b": hello\n\n" + STREAM.replace(b"event: x", b": still here\nevent: x"),
    "events without data": b"event: hello\n\n" + STREAM,
}


def decoded(body: bytes, cuts: list[int], content_type: str = "text/event-stream") -> list[bytes]:
    decoder = ResponseBody(content_type)
    places = sorted({cut % (len(body) + 1) for cut in cuts})
    chunks = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    return feed(decoder, chunks) + decoder.finish()


def feed(decoder: ResponseBody, chunks: list[bytes]) -> list[bytes]:
    found: list[bytes] = []
    for chunk in chunks:
        found += decoder.feed(chunk)
        while decoder.has_more:
            found += decoder.more()
    return found


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(BODIES)), st.lists(st.integers(0, 500), max_size=8))
def test_a_stream_in_any_wrapping_has_the_same_events(name: str, cuts: list[int]) -> None:
    assert decoded(BODIES[name], cuts) == EVENTS


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 500), max_size=4), st.booleans())
def test_a_whole_message_becomes_the_events_that_build_it(cuts: list[int], indented: bool) -> None:
    body = json.dumps(MESSAGE, indent=2 if indented else None).encode()
    builder = MessageBuilder()
    for raw in decoded(body, cuts, "application/json"):
        builder.apply(json.loads(raw))
    assert builder.message == MESSAGE
    assert builder.text == "Look: "


def test_the_text_of_a_whole_message_is_in_deltas() -> None:
    events = [json.loads(raw) for raw in decoded(json.dumps(MESSAGE).encode(), [])]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert {"type": "text_delta", "text": "Look: "} in deltas
    assert events[-1] == {"type": "message_stop"}


@pytest.mark.parametrize("content", [None, 5, ["text"], [{"type": []}], [{"no": "type"}]])
def test_an_odd_message_becomes_events_that_are_checked_like_any_others(content: Any) -> None:
    events = decoded(json.dumps({**MESSAGE, "content": content}).encode(), [])
    assert json.loads(events[0])["type"] == "message_start"


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","error":{"type":"overloaded_error"}}',
        b'{"error":{"message":"No.","code":7}}',
    ],
)
def test_an_error_object_is_passed_on_as_an_event(body: bytes) -> None:
    assert decoded(body, []) == [body]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the response is empty (content type text/html)"),
        (b" \n", "the response is not an event stream (content type text/html)"),
        (
            b"<!DOCTYPE html>\n<p>Hi",
            "the response is a page (content type text/html): <!DOCTYPE html> <p>Hi",
        ),
        (b"It works!", "the response is not an event stream (content type text/html): It works!"),
        (b"{}", "the response is not an event stream (content type text/html): {}"),
        (b'{"a":1', 'the response is not an event stream (content type text/html): {"a":1'),
        (b"[1]", "the response is not an event stream (content type text/html): [1]"),
        (b"{1\n{2", "the response is not an event stream (content type text/html): {1 {2"),
        (b": nothing\n\n", "the response is not an event stream (content type text/html): : not"),
        (b"\x1f\x8bno gzip", "the response is damaged gzip (content type text/html)"),
    ],
)
def test_any_other_body_is_described_and_quoted(body: bytes, message: str) -> None:
    with pytest.raises(InvalidResponse) as error:
        decoded(body, [], "text/html")
    assert str(error.value).startswith(message)


def test_the_error_names_the_headers_and_shows_what_can_be_printed() -> None:
    body = ResponseBody("", "br")
    body.feed(b"\x1b\x30\x00\xf8\x25" + b"x" * 500)
    with pytest.raises(InvalidResponse) as error:
        body.finish()
    assert "no content type; content encoding br" in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


def test_an_event_that_was_cut_is_no_event() -> None:
    body = ResponseBody()
    assert body.feed(b'data: {"type":"new"}\n\ndata: {"ty') == [b'{"type":"new"}']
    assert body.unfinished() == []
    assert body.finish() == []


@pytest.mark.parametrize("begin", [b"data: ", b"{", b""])
def test_a_body_without_an_end_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    for module in (sse, response_body):
        monkeypatch.setattr(module, "MAX_EVENT_BYTES", 10_000)
    body = ResponseBody()
    with pytest.raises(InvalidResponse, match="more than 0 MB"):
        feed(body, [begin, *[b"x" * 1_000] * 30])


@pytest.mark.parametrize("body", [b"\n" * 1_000_000, STREAM * 10_000, b"\r\n" * 300_000])
def test_a_chunk_is_decoded_in_bounded_pieces(body: bytes) -> None:
    decoder = ResponseBody()
    sizes = []
    for chunk in (gzip.compress(body), b"", gzip.compress(body)[:100]):
        sizes.append(sum(map(len, decoder.feed(chunk))))
        while decoder.has_more:
            sizes.append(sum(map(len, decoder.more())))
    assert len(sizes) > len(body) // PIECE_BYTES
    assert max(sizes) <= 2 * PIECE_BYTES


def test_a_large_chunk_that_is_not_compressed_is_decoded_in_pieces() -> None:
    decoder = ResponseBody()
    body = STREAM * 10_000
    found = [decoder.feed(body)]
    while decoder.has_more:
        found.append(decoder.more())
    assert max(len(b"".join(events)) for events in found) <= PIECE_BYTES
    assert [event for events in found for event in events] == EVENTS * 10_000


@pytest.mark.parametrize("body", [b"\n" * 40_000, STREAM * 200, b"\n" + STREAM + b"\n" * 40_000])
@pytest.mark.parametrize("packed", [True, False])
def test_a_body_that_is_too_large_is_refused(
    monkeypatch: pytest.MonkeyPatch, body: bytes, packed: bool
) -> None:
    monkeypatch.setattr(response_body, "MAX_BODY_BYTES", 10_000)
    with pytest.raises(ResponseTooLarge, match="more than 0 MB"):
        feed(ResponseBody(), [gzip.compress(body)] if packed else [body])
