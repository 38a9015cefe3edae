"""The visible text: late joins by one look, and what happens when some of it is taken back."""

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
from tests.scripted import BLOCK, PATIENCE_S, START, ScriptedWriter, delta, rewind

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
    """A reader that has taken these pieces: one by one, or late and all together."""
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


def test_who_joins_late_begins_with_the_text_so_far(writer: ScriptedWriter) -> None:
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


def test_a_late_join_reads_the_text_and_not_the_log(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK)
    writer.text("Hel", "lo")
    writer.set_text("HELLO")
    assert next(writer.stream().text_stream) == "HELLO"


def test_the_message_can_still_be_had_after_a_late_join(writer: ScriptedWriter) -> None:
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


def test_who_is_there_from_the_start_needs_to_read_nothing_again(writer: ScriptedWriter) -> None:
    stream, pieces = joined(writer, "a", late=False)
    writer.text("b")
    assert next(pieces) == "b"
    writer.end()
    assert list(pieces) == []
    writer._redis.delete(writer.keys.log)
    assert blocks(stream) == [{"type": "text", "text": "ab"}]


@pytest.mark.parametrize("late", [False, True])
def test_a_rewind_of_what_is_not_text_does_not_concern_the_text(
    writer: ScriptedWriter, late: bool
) -> None:
    stream, pieces = joined(writer, "Hello", late=late)
    writer.write(STOP, TOOL, HALF)
    writer.write(rewind(1, 0), {**BLOCK, "index": 1}, delta(" again", index=1))
    writer.end()
    assert list(pieces) == [" again"]
    assert blocks(stream) == [{"type": "text", "text": t} for t in ("Hello", " again")]


@pytest.mark.parametrize("late", [False, True])
def test_text_that_is_taken_back_and_said_again_is_not_given_twice(
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
def test_text_that_is_taken_back_for_another_is_an_error(
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


def test_events_tell_of_what_is_taken_back(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK, delta("Hello wrold"), rewind(0, 6), delta("world"), STOP)
    writer.end()
    stream = writer.stream()
    kinds = [event.type for event in stream]
    assert events.REWIND in kinds
    assert blocks(stream) == [{"type": "text", "text": "Hello world"}]


def test_a_resumed_text_goes_on_behind_its_cursor_over_rewinds(writer: ScriptedWriter) -> None:
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


def test_a_resumed_text_is_an_error_when_what_was_before_it_is_taken_back(
    writer: ScriptedWriter,
) -> None:
    writer.write(START, BLOCK, delta("Hello"), delta(" you"))
    pieces = writer.stream(after=Cursor(1, 4)).text_stream
    assert next(pieces) == " you"
    writer.write(rewind(0, 1), delta("i"))
    with pytest.raises(TextRewound):
        next(pieces)


def test_a_failed_answer_tells_all_its_text_to_a_resumed_reader(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK, delta("half of"), delta(" it"))
    writer.end(state="failed", error={"type": "api_error", "message": "x"})
    with pytest.raises(RequestFailed) as failed:
        writer.stream(after=Cursor(1, 4)).until_done()
    assert failed.value.text == "half of it"


def test_events_that_redis_lost_are_taken_back_and_come_again(writer: ScriptedWriter) -> None:
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
def test_text_that_redis_lost_is_no_error_while_it_says_the_same(
    writer: ScriptedWriter, late: bool
) -> None:
    _, pieces = joined(writer, "Hello", " wor", late=late)
    writer.lose_tail(4)
    writer.epoch = 2
    writer.cut()
    writer.text(" world")
    writer.end()
    assert list(pieces) == ["ld"]


def test_a_trimmed_log_gives_its_text_to_who_comes_from_before(writer: ScriptedWriter) -> None:
    writer.write(START, BLOCK)
    writer.text("a", "b", "c")
    writer.trim(5)
    for after in (None, "1-2"):
        reader = writer.request().events(after=after, timeout=PATIENCE_S)
        snapshot = next(reader)
        assert snapshot.data == {"type": events.SNAPSHOT, "text": "abc"}
        assert snapshot.cursor == Cursor(1, 6)
    near = writer.request().events(after="1-4", timeout=PATIENCE_S)
    assert [next(near).n, next(near).n] == [5, 6]
    writer.text("d")
    writer.end(stop_reason="end_turn")
    assert [event.n for event in reader] == [7, 8]
    stream = writer.stream()
    assert stream.get_final_text() == "abcd"
    assert stream.get_final_message().stop_reason == "end_turn"


def test_a_reader_may_be_there_before_the_request(penstock_client: Client) -> None:
    id = new_id()
    messages = penstock_client.messages
    with pytest.raises(NotFound):
        messages.attach(id)
    stream = messages.attach(id, wait_for=PATIENCE_S, timeout=PATIENCE_S)
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


def test_nobody_waits_for_what_cannot_be_an_id(penstock_client: Client) -> None:
    with pytest.raises(NotFound, match="is not an id"):
        penstock_client.messages.attach("nonsense", wait_for=PATIENCE_S)


def test_a_request_that_does_not_come_is_not_found(penstock_client: Client) -> None:
    stream = penstock_client.messages.attach(new_id(), wait_for=0.05)
    with pytest.raises(NotFound, match="never existed"):
        stream.until_done()
