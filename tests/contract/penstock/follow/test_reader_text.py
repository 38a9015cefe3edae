"""The visible text: late readers, and what happens when some of it is withdrawn."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import events
from penstock.client import Client
from penstock.errors import NotFound, RequestFailed, TextRewound
from penstock.events import Cursor
from penstock.ids import new_id
from penstock.streams.stream import MessageStream
from penstock.testing import wait_until
from tests.scripted import BLOCK, START, TIMEOUT_S, ScriptedWriter, delta, rewind

STOP = {"type": "content_block_stop", "index": 0}
TOOL = {
    "type": "content_block_start",
    "index": 1,
    "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
}
HALF = {
    "type": "content_block_delta",
    "index": 1,
    "delta": {"type": "input_json_delta", "partial_json": '{"ci'},
}


@pytest.fixture
def writer(penstock_client: Client) -> ScriptedWriter:
    return ScriptedWriter(penstock_client)


def joined(writer: ScriptedWriter, *pieces: str, late: bool) -> tuple[MessageStream, Iterator[str]]:
    """A reader that has these pieces: one by one, or late as a whole."""
    stream = writer.stream()
    taking = stream.text_stream
    text, taken = "".join(pieces), ""

    def take() -> None:
        nonlocal taken
        while len(taken) < len(text):
            taken += next(taking)

    thread = threading.Thread(target=take)
    if not late:
        thread.start()
        wait_until(lambda: writer.subscribers == 1, what="the reader")
    writer.write(START, BLOCK, *(delta(piece) for piece in pieces))
    if late:
        thread.start()
    thread.join()
    assert taken == text
    return stream, taking


def blocks(stream: Any) -> list[dict[str, Any]]:
    """The final message's content."""
    return [block.to_dict() for block in stream.get_final_message().content]


def test_a_late_reader_begins_with_the_text_so_far(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK)
    writer.text("Hel", "lo ")
    pieces = writer.stream().text_stream
    assert next(pieces) == "Hello "
    writer.text("wor")
    assert next(pieces) == "wor"
    writer.text("ld", publish=False)
    writer.end(publish=False)
    writer.heartbeat()
    assert list(pieces) == ["ld"]


def test_a_late_reader_reads_the_text_and_not_the_log(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK)
    writer.text("Hel", "lo")
    writer.set_text("HELLO")
    assert next(writer.stream().text_stream) == "HELLO"


def test_a_late_reader_can_still_get_the_whole_message(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK)
    writer.text("Hel", "lo")
    stream = writer.stream()
    pieces = stream.text_stream
    assert next(pieces) == "Hello"
    writer.text("!")
    writer.write(STOP)
    writer.end()
    assert list(pieces) == ["!"]
    assert stream.get_final_text() == "Hello!"
    assert blocks(stream) == [{"type": "text", "text": "Hello!"}]
    assert stream.get_final_message().id == "msg_1"


def test_a_reader_from_the_start_reads_nothing_twice(writer: ScriptedWriter) -> None:
    stream, pieces = joined(writer, "a", late=False)
    writer.text("b")
    assert next(pieces) == "b"
    writer.end()
    assert list(pieces) == []
    writer._redis.delete(writer.keys.log)
    assert blocks(stream) == [{"type": "text", "text": "ab"}]


@pytest.mark.parametrize("late", [False, True])
def test_a_rewind_of_another_block_does_not_affect_the_text(
    writer: ScriptedWriter, late: bool
) -> None:
    stream, pieces = joined(writer, "Hello", late=late)
    writer.write(STOP, TOOL, HALF)
    writer.write(rewind(1, 0), {**BLOCK, "index": 1}, delta(" again", index=1))
    writer.end()
    assert list(pieces) == [" again"]
    assert blocks(stream) == [{"type": "text", "text": t} for t in ("Hello", " again")]


@pytest.mark.parametrize("late", [False, True])
def test_withdrawn_text_that_is_repeated_is_not_delivered_twice(
    writer: ScriptedWriter, late: bool
) -> None:
    stream, pieces = joined(writer, "Hel", "lo wor", late=late)
    writer.write(rewind(0, 2))
    writer.set_text("He")
    writer.text("llo", " world")
    writer.end()
    assert "".join(pieces) == "ld"
    assert stream.get_final_text() == "Hello world"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("other", [["HELLO"], ["Hel", "p"], ["He"]])
def test_withdrawn_text_that_is_replaced_is_an_error(
    writer: ScriptedWriter, late: bool, other: list[str]
) -> None:
    _, pieces = joined(writer, "Hel", "lo", late=late)
    writer.write(rewind(0, 0), {**BLOCK})
    writer.set_text("")
    writer.text(*other)
    writer.end()
    with pytest.raises(TextRewound):
        list(pieces)
    again = writer.stream()
    assert "".join(again.text_stream) == "".join(other)


def test_a_reader_of_events_gets_the_rewind(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK, delta("Hello wrold"), rewind(0, 6), delta("world"), STOP)
    writer.end()
    stream = writer.stream()
    kinds = [event.type for event in stream]
    assert events.REWIND in kinds
    assert blocks(stream) == [{"type": "text", "text": "Hello world"}]


def test_a_resumed_text_stream_continues_after_its_cursor_across_rewinds(
    writer: ScriptedWriter,
) -> None:
    writer.write(START, BLOCK, delta("Hello"), delta(" wor"))
    stream = writer.stream(after=Cursor(1, 4))
    pieces = stream.text_stream
    assert next(pieces) == " wor"
    writer.write(STOP, TOOL, rewind(1, 0))
    writer.write(rewind(0, 6))
    writer.text("world")
    writer.end()
    assert list(pieces) == ["ld"]
    assert stream.get_final_text() == "Hello world"


def test_a_resumed_text_stream_fails_if_text_before_its_cursor_is_withdrawn(
    writer: ScriptedWriter,
) -> None:
    writer.write(START, BLOCK, delta("Hello"), delta(" you"))
    pieces = writer.stream(after=Cursor(1, 4)).text_stream
    assert next(pieces) == " you"
    writer.write(rewind(0, 1), delta("i"))
    with pytest.raises(TextRewound):
        next(pieces)


def test_a_failed_answer_gives_a_resumed_reader_all_its_text(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK, delta("half of"), delta(" it"))
    writer.end(state="failed", error={"type": "api_error", "message": "x"})
    with pytest.raises(RequestFailed) as failed:
        writer.stream(after=Cursor(1, 4)).until_done()
    assert failed.value.text == "half of it"


def test_events_that_redis_lost_are_withdrawn_and_delivered_again(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK, delta("Hello"), delta(" wrold"))
    stream = writer.stream()
    found = iter(stream)
    before = [next(found)["type"] for _ in range(5)]
    writer.lose_tail(4)
    writer.epoch = 2
    writer.cut()
    writer.write(delta(" world"), STOP)
    writer.end()
    after = [event["type"] for event in found]
    assert after == [events.REWIND, *before, "content_block_stop", events.END]
    assert blocks(stream) == [{"type": "text", "text": "Hello world"}]


@pytest.mark.parametrize("late", [False, True])
def test_text_that_redis_lost_is_no_error_if_the_same_text_follows(
    writer: ScriptedWriter, late: bool
) -> None:
    _, pieces = joined(writer, "Hello", " wor", late=late)
    writer.lose_tail(4)
    writer.epoch = 2
    writer.cut()
    writer.text(" world")
    writer.end()
    assert list(pieces) == ["ld"]


def test_a_trimmed_log_gives_a_snapshot_to_a_reader_with_an_older_cursor(
    writer: ScriptedWriter,
) -> None:
    writer.write(START, BLOCK)
    writer.text("a", "b", "c")
    writer.trim(5)
    for after in (None, "1-2"):
        reader = writer.request().events(after=after, timeout=TIMEOUT_S)
        snapshot = next(reader)
        assert snapshot.data == {"type": events.SNAPSHOT, "text": "abc"}
        assert snapshot.cursor == Cursor(1, 6)
    near = writer.request().events(after="1-4", timeout=TIMEOUT_S)
    assert [next(near).n, next(near).n] == [5, 6]
    writer.text("d")
    writer.end(stop_reason="end_turn")
    assert [event.n for event in reader] == [7, 8]
    stream = writer.stream()
    assert stream.get_final_text() == "abcd"
    assert stream.get_final_message().stop_reason == "end_turn"


def test_a_reader_may_start_before_the_request(penstock_client: Client) -> None:
    id = new_id()
    messages = penstock_client.messages
    with pytest.raises(NotFound):
        messages.attach(id)
    stream = messages.attach(id, wait_for=TIMEOUT_S, timeout=TIMEOUT_S)
    writer = ScriptedWriter(penstock_client, id=id, submit=False)
    pieces = stream.text_stream

    def write() -> None:
        wait_until(lambda: writer.subscribers == 1, what="the reader")
        writer.submit()
        writer.write(START, BLOCK, delta("there"))
        writer.end()

    thread = threading.Thread(target=write)
    thread.start()
    assert "".join(pieces) == "there"
    thread.join()


def test_a_reader_does_not_wait_for_an_invalid_id(penstock_client: Client) -> None:
    with pytest.raises(NotFound, match="is not a valid id"):
        penstock_client.messages.attach("nonsense", wait_for=TIMEOUT_S)


def test_a_request_that_is_never_enqueued_is_not_found(penstock_client: Client) -> None:
    stream = penstock_client.messages.attach(new_id(), wait_for=0.05)
    with pytest.raises(NotFound, match="never existed"):
        stream.until_done()
