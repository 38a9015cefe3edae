"""The handle of a request and its live stream, over events in a real log."""

import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from penstock import events
from penstock.client import Client
from penstock.errors import NotFound, PenstockError, RequestCanceled, RequestFailed
from penstock.events import Cursor
from penstock.ids import new_id
from penstock.states import State
from penstock.store import request_scripts
from penstock.store.request_scripts import Claimed
from penstock.streams.final_text import TextFinal
from penstock.streams.records import RequestOptions
from penstock.streams.stream import MessageStream, StreamRequest
from tasks.streams.publish.outbox import Outbox

START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
FINISH: list[dict[str, Any]] = [
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 9},
    },
    {"type": "message_stop"},
]


def text(piece: str) -> dict[str, Any]:
    delta = {"type": "text_delta", "text": piece}
    return {"type": "content_block_delta", "index": 0, "delta": delta}


class Worker:
    """Writes a request's answer with a worker's outbox and scripts, event by event."""

    def __init__(self, client: Client) -> None:
        self._redis = client._redis
        self.id = new_id()
        client.messages._records.submit(
            self.id, "claude-haiku-4-5", b"{}", RequestOptions(), TextFinal.AT_ONCE
        )
        keys = client.settings.keys.request(self.id)
        claim = request_scripts.claim(keys, client.settings.keys, worker="w", lease_ms=60_000).run(
            self._redis
        )
        assert isinstance(claim, Claimed)
        self._box = Outbox(
            client.settings.keys,
            self.id,
            worker="w",
            epoch=claim.epoch,
            n=claim.n,
            ttl_s=100,
            retention_s=50,
        )

    def write(self, *data: dict[str, Any]) -> None:
        for each in data:
            self._box.add(orjson.dumps(each), each)
            self._flush()

    def end(self, state: State = State.DONE, **more: Any) -> None:
        self._box.end({"state": state, **more})
        self._flush()

    def answer(self, *pieces: str) -> None:
        self.write(START, BLOCK, *(text(piece) for piece in pieces), *FINISH)
        self.end()

    def _flush(self) -> None:
        call = self._box.next_call()
        assert call is not None
        self._box.apply_reply(call.script(self._redis, call.keys, call.args))
        assert not self._box.lost


@pytest.fixture
def worker(penstock_client: Client) -> Iterator[Worker]:
    worker = Worker(penstock_client)
    yield worker
    # Real workers of other tests would claim it after its lease has expired.
    penstock_client.messages._records.discard(worker.id)


@pytest.fixture
def handle(penstock_client: Client, worker: Worker) -> StreamRequest:
    return penstock_client.messages.request(worker.id)


@pytest.fixture
def stream(handle: StreamRequest) -> Iterator[MessageStream]:
    with handle.stream(timeout=20) as stream:
        yield stream


def test_an_answer_can_be_read_as_text_and_then_as_a_message(
    worker: Worker, stream: MessageStream, handle: StreamRequest
) -> None:
    worker.answer("Hel", "lo")
    assert list(stream.text_stream) == ["Hello"]  # a late reader gets it in one piece
    assert stream.get_final_text() == "Hello"
    message = stream.get_final_message()
    assert message.content[0].to_dict() == {"type": "text", "text": "Hello"}
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 9)
    assert handle.text() == "Hello"
    assert handle.state is State.DONE
    assert handle.result(timeout=20).to_dict() == message.to_dict()
    assert stream.end is not None
    assert stream.end.state == "done"


def test_text_arrives_while_the_answer_is_still_being_written(
    worker: Worker, stream: MessageStream, handle: StreamRequest
) -> None:
    worker.write(START, BLOCK, text("a"))
    pieces = stream.text_stream
    assert next(pieces) == "a"
    assert handle.text() == "a"
    assert stream.end is None
    worker.write(text("b"))
    assert next(pieces) == "b"
    worker.write(*FINISH)
    worker.end()
    assert list(pieces) == []


def test_penstocks_own_events_are_read_between_the_apis(
    worker: Worker, stream: MessageStream
) -> None:
    worker.answer("x")
    kinds = [event.type for event in stream]
    assert kinds[0] == events.QUEUED
    assert kinds[1:3] == ["message_start", "content_block_start"]
    assert kinds[-1] == events.END


def test_a_failed_request_raises_after_its_last_event_and_keeps_the_text(
    worker: Worker, stream: MessageStream
) -> None:
    worker.write(START, BLOCK, text("half"))
    worker.end(State.FAILED, error={"type": "overloaded_error", "message": "busy"})
    pieces: list[str] = []
    with pytest.raises(RequestFailed, match="overloaded_error: busy") as failed:
        pieces.extend(stream.text_stream)
    assert failed.value.text == "half"
    with pytest.raises(RequestFailed):  # and at each further call
        stream.get_final_message()


def test_a_canceled_request_says_who_asked_for_it(worker: Worker, stream: MessageStream) -> None:
    worker.write(START, BLOCK, text("half"))
    assert stream.cancel() is State.RUNNING
    worker.end(State.CANCELED, by="client")
    with pytest.raises(RequestCanceled, match="canceled by client") as canceled:
        stream.until_done()
    assert canceled.value.text == "half"


def test_a_request_that_failed_before_its_first_byte_has_no_text(
    worker: Worker, stream: MessageStream
) -> None:
    worker.end(State.FAILED, error={"type": "authentication_error", "message": "x"})
    with pytest.raises(RequestFailed) as failed:
        stream.get_final_text()
    assert failed.value.text == ""


def test_a_reader_resumes_from_the_cursor_of_another(
    penstock_client: Client, worker: Worker, stream: MessageStream
) -> None:
    worker.write(START, BLOCK, text("a"))
    assert next(stream.text_stream) == "a"
    worker.write(text("b"), *FINISH)
    worker.end()
    for cursor in (stream.cursor, str(stream.cursor)):
        resumed = penstock_client.messages.attach(worker.id, after=cursor, timeout=20)
        assert list(resumed.text_stream) == ["b"]


@pytest.mark.parametrize("id", ["01a20000-0000-7000-8000-000000000000", "nonsense", "", "*"])
def test_attaching_to_an_unknown_request_raises_not_found(penstock_client: Client, id: str) -> None:
    with pytest.raises(NotFound):
        penstock_client.messages.attach(id)
    with pytest.raises(NotFound):
        penstock_client.messages.request(id)


def test_an_invalid_cursor_is_refused_at_attach(penstock_client: Client, worker: Worker) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        penstock_client.messages.attach(worker.id, after="nonsense")


def test_a_resumed_stream_begins_at_its_cursor(penstock_client: Client, worker: Worker) -> None:
    resumed = penstock_client.messages.attach(worker.id, after="1-7")
    assert resumed.cursor == Cursor(1, 7)


def test_a_resumed_stream_still_has_the_whole_answer_at_its_end(
    penstock_client: Client, worker: Worker, handle: StreamRequest
) -> None:
    worker.answer("Hel", "lo")
    early = next(event for event in handle.events(timeout=20) if event.n == 4)  # after "Hel"
    whole = handle.stream(timeout=20).get_final_message()
    resumed = penstock_client.messages.attach(worker.id, after=early.cursor, timeout=20)
    assert resumed.get_final_text() == "Hello"
    assert resumed.get_final_message().to_dict() == whole.to_dict()


def test_an_incomplete_answer_is_never_returned_as_the_final_one(
    worker: Worker, handle: StreamRequest
) -> None:
    worker.write(START, BLOCK, text("half"))
    stream = handle.stream(timeout=0.05)
    with pytest.raises(TimeoutError):
        stream.until_done()
    with pytest.raises((PenstockError, TimeoutError)):
        stream.get_final_text()


def test_a_closed_stream_has_no_final_text(worker: Worker, stream: MessageStream) -> None:
    worker.write(START, BLOCK, text("half"))
    assert next(stream.text_stream) == "half"
    stream.close()
    with pytest.raises((PenstockError, TimeoutError)):
        stream.get_final_text()


def test_many_readers_share_one_client(
    penstock_client: Client, worker: Worker, handle: StreamRequest
) -> None:
    found: list[str] = []

    def read() -> None:
        with penstock_client.messages.attach(worker.id, timeout=20) as stream:
            found.append(stream.get_final_text())

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    worker.answer(*(f"<{i}>" for i in range(50)))
    for thread in threads:
        thread.join()
    assert found == [handle.text()] * 20
