"""SSEDecoder: the same events, wherever the bytes are cut."""

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.api import sse
from tasks.api.sse import InvalidResponse, SSEDecoder

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def decoded(pieces: Iterable[bytes]) -> list[bytes]:
    decoder = SSEDecoder()
    return [data for piece in pieces for data in decoder.feed(piece)]


def cut(stream: bytes, at: Iterable[int]) -> list[bytes]:
    places = sorted({place % (len(stream) + 1) for place in at})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def expected(stream: str) -> list[bytes]:
    """The WHATWG algorithm, implemented naively over the whole stream."""
    found: list[bytes] = []
    data: list[str] = []
    lines = stream.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line in lines[:-1]:  # text after the last line end is not a line yet
        name, _, value = line.partition(":")
        if line and name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            found.append("\n".join(data).encode())
            data = []
    return found


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=12)
fields = st.one_of(
    st.builds("data: {}".format, texts),
    st.builds("data:{}".format, texts),
    st.builds("event: {}".format, texts),
    st.builds(":{}".format, texts),  # a comment, as proxies send to keep a line open
    st.builds("id: {}".format, texts),
    st.just("data:"),
    st.just("retry: 10"),
    st.just("dataset: no"),
    st.just(" data: indented, so it is no data"),
    st.just(""),
)
cuts = st.lists(st.integers(0, 10_000), max_size=12)


@MANY
@given(st.lists(fields, max_size=20), st.sampled_from(["\n", "\r\n"]), cuts)
def test_any_event_stream_cut_anywhere_decodes_as_if_whole(
    lines: list[str], end: str, at: list[int]
) -> None:
    stream = "".join(line + end for line in lines)
    assert decoded(cut(stream.encode(), at)) == expected(stream)


@MANY
@given(st.lists(st.tuples(fields, st.sampled_from(["\n", "\r\n", "\r"])), max_size=20), cuts)
@example([("data: 1", "\r"), ("", "\r")], [])
def test_every_kind_of_line_end_ends_a_line_at_once(
    lines: list[tuple[str, str]], at: list[int]
) -> None:
    stream = "".join(line + end for line, end in lines)
    assert decoded(cut(stream.encode(), at)) == expected(stream)


@MANY
@given(st.binary(max_size=300), cuts)
def test_arbitrary_bytes_decode_the_same_in_pieces_and_whole(stream: bytes, at: list[int]) -> None:
    assert decoded(cut(stream, at)) == decoded([stream])


@MANY
@given(st.lists(st.sampled_from(["data: a", "\r", "\n", "\r\n", "\n\n", "data:b"])), cuts)
def test_line_ends_decode_the_same_in_pieces_and_whole(parts: list[str], at: list[int]) -> None:
    stream = "".join(parts).encode()
    assert decoded(cut(stream, at)) == decoded([stream])


def test_a_character_cut_between_chunks_is_decoded_whole() -> None:
    stream = 'data: {"text":"日本 🚰"}\n\n'.encode()
    assert decoded(stream[i : i + 1] for i in range(len(stream))) == [stream[6:-2]]


def test_an_event_is_returned_with_the_byte_that_completes_it() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"event: x\ndata: 1\n") == []
    assert decoder.feed(b"\n") == [b"1"]
    assert SSEDecoder().feed(b"data: 1\n\ndata: 2\n\ndata: 3") == [b"1", b"2"]
    decoder = SSEDecoder()
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\ndata: after two empty lines\n\n") == [b"after two empty lines"]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # The standard's own examples (HTML, 9.2.6).
        ("data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
        (": test stream\n\ndata: first event\nid: 1\n\n", [b"first event"]),
        ("data:test\n\ndata: test\n\n", [b"test", b"test"]),
        ("data:  two blanks\n\n", [b" two blanks"]),
        ("data: unfinished\n", []),
        ("data: \u2028\u0085\x0b\x0c\n\n", ["\u2028\u0085\x0b\x0c".encode()]),
        ("\n\n\n\ndata: x\n\n\n\n", [b"x"]),
        ("event: ping\n\n", []),
        ("data: a: b: c\n\n", [b"a: b: c"]),
        ("Data: x\n\n", []),
    ],
)
def test_the_examples_of_the_sse_standard_are_decoded(stream: str, events: list[bytes]) -> None:
    assert decoded([stream.encode()]) == events
    assert expected(stream) == events


def test_a_carriage_return_between_two_chunks_is_one_line_end_with_its_line_feed() -> None:
    assert decoded([b"data: 1\r", b"\ndata: 2\r\n\r", b"\n"]) == [b"1\n2"]


def test_a_ping_is_recognized_by_its_name_whatever_its_data_is() -> None:
    stream = b"event: ping\ndata: {\n\nid: 1\nevent: ping\ndata:\n\nevent: pings\ndata: 1\n\n"
    assert decoded([stream]) == [b"1"]


@pytest.mark.parametrize("end", ["", "\n", "\r", "\r\n", "\nid: 1"])
def test_an_event_without_a_blank_line_is_available_at_the_end(end: str) -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: 1\n\ndata: 2" + end.encode()) == [b"1"]
    assert decoder.unfinished() == b"2"
    assert decoder.unfinished() is None


def test_an_event_larger_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = SSEDecoder()
    assert decoder.feed(b"data: " + b"x" * 90) == []
    with pytest.raises(InvalidResponse, match="an event has more than"):
        decoder.feed(b"x" * 10)


def test_many_events_in_one_chunk_are_returned_in_order() -> None:
    stream = b"".join(b'data: {"n":%d}\n\n' % n for n in range(5_000))
    assert decoded([stream]) == [b'{"n":%d}' % n for n in range(5_000)]
