"""Relay: what one record, one event or one bug can do to its own request, and to no other."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from penstock.async_client import AsyncClient
from penstock.client import Client
from penstock.errors import RequestFailed
from penstock.events import decode
from penstock.store import request_scripts
from tasks.streams import relay as relay_module
from tests.contract.tasks.streams.raw_api import Answer, whole
from tests.contract.tasks.streams.relay_stage import RelayStage

Perform = Callable[..., Any]

HELLO = whole("Hello")

#: Numbers of a record without which the claim script cannot claim it.
unclaimable = pytest.mark.parametrize(
    ("field", "value"), [("epoch", "abc"), ("epoch", ""), ("worker_losses", "x")]
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deadline_ms", "abc"),
        ("deadline_ms", "-5"),
        ("deadline_ms", "1e400"),
        ("started_ms", "\u0663"),
        ("attempts", "1.5"),
        ("attempts", "9" * 30),
        ("api_retries", "many"),
        ("first_delta_ms", "soon"),
        ("on_interrupt", "maybe"),
        ("headers", "[]"),
        ("headers", "{"),
        ("headers", '{"a": 1}'),
        ("headers", 3_000 * "["),
        ("spent", "7"),
        ("retry_budget", '{"stalled": "x"}'),
        ("retry_budget", "[]"),
        ("open_output", "x"),
    ],
)
def test_a_field_of_the_record_that_cannot_be_parsed_fails_its_request_once(
    perform: Perform, field: str, value: str
) -> None:
    async def test(stage: RelayStage) -> None:
        bad, good = stage.submit(), stage.submit()
        stage.connection.hset(stage.settings.keys.request(bad).meta, field, value)
        results, end = await asyncio.gather(stage.run(bad), stage.end(good))
        assert (end["state"], stage.text(good)) == ("done", "Hello")
        assert [result.state for result in results] == ["failed"]
        error = stage.events(bad)[-1].data["error"]
        assert error["type"] == "invalid_record"
        assert f"the record's field '{field}'" in error["message"]
        assert stage.api.calls == 1
        assert (await stage.relay.run(bad)).reason == "it has already ended"

    perform(test, HELLO)


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("entry", [f"{2**64 - 1}-1", f"{2**64 - 1}-{2**64 - 1}", "9999999999999-7"])
def test_a_request_ends_although_its_log_has_an_entry_of_the_future(
    perform: Perform, entry: str, readable: bool
) -> None:
    async def test(stage: RelayStage) -> None:
        bad, good = stage.submit(), stage.submit()
        keys = stage.settings.keys.request(bad)
        stage.connection.xadd(keys.log, {"d": "x"}, entry)
        if not readable:
            stage.connection.hset(keys.meta, "n", "x")
        _, end = await asyncio.gather(stage.run(bad), stage.end(good))
        assert (end["state"], stage.text(good)) == ("done", "Hello")
        can_follow = entry == "9999999999999-7" and readable
        assert stage.record(bad)["state"] == ("done" if can_follow else "failed")
        assert stage.connection.zscore(stage.settings.keys.live, bad) is None

    perform(test, HELLO, HELLO)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (3_000 * b"[", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "has no valid 'model'"),
        (b'{"model":"m","max_tokens":"9","messages":[]}', "has no valid 'max_tokens'"),
        (b'{"model":"m","max_tokens":9,"messages":{}}', "has no valid 'messages'"),
    ],
)
def test_a_body_that_cannot_be_read_fails_its_request_once(
    perform: Perform, body: bytes, words: str
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        stage.connection.set(stage.settings.keys.request(id).request, body, ex=60)
        error = (await stage.end(id))["error"]
        assert error["type"] == "invalid_record"
        assert words in error["message"]
        assert stage.api.calls == 0

    perform(test, HELLO)


@pytest.mark.parametrize(
    "entry",
    [
        {"d": "not JSON"},
        {"d": "[]"},
        {"x": "y"},
        {"d": b'{"e":1,"n":2,"data":{"type":"penstock.rewind","index":"x"}}'},
    ],
)
def test_a_log_that_cannot_be_read_fails_its_request_once(
    perform: Perform, entry: dict[str, Any]
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        keys, shared = stage.settings.keys.request(id), stage.settings.keys
        request_scripts.claim(keys, shared, worker="lost", lease_ms=1).run(stage.connection)
        stage.connection.xadd(keys.log, entry, id="1-2")
        stage.connection.hset(keys.meta, mapping={"attempts": 1, "n": 2})
        stage.connection.delete(keys.lease)
        (result,) = await stage.run(id)
        assert result.state == "failed"
        error = orjson.loads(stage.record(id)["error"])
        assert error["type"] == "invalid_record"
        assert "log" in error["message"]
        end = decode(stage.connection.xrevrange(keys.log, count=1)[0][1][b"d"]).data
        assert not {"characters", "text_sha256"} & end.keys()  # readers may have text
        assert stage.api.calls == 0

    perform(test, HELLO)


@unclaimable
def test_a_record_that_cannot_be_claimed_fails_and_is_not_woken_again(
    perform: Perform, field: str, value: str
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        meta = stage.settings.keys.request(id).meta
        stage.connection.hset(meta, mapping={field: value, "state": "running"})
        (result,) = await stage.run(id)
        assert result.state == "skipped"
        record = stage.record(id)
        assert (record["state"], orjson.loads(record["error"])["type"]) == (
            "failed",
            "invalid_record",
        )
        assert stage.connection.zscore(stage.settings.keys.live, id) is None
        assert (await stage.relay.run(id)).reason == "it has already ended"

    perform(test, HELLO)


@unclaimable
def test_readers_of_a_record_that_cannot_be_claimed_raise_its_error(
    perform: Perform, field: str, value: str
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        meta = stage.settings.keys.request(id).meta
        stage.connection.hset(meta, mapping={field: value, "state": "running"})
        await stage.run(id)
        await asyncio.to_thread(read_in_threads, stage, id)
        address = stage.settings.redis_url.get_secret_value()
        async with AsyncClient(address, key_prefix=stage.settings.key_prefix) as client:
            stream = await client.messages.attach(id, timeout=10)
            with pytest.raises(RequestFailed, match="was not run any further"):
                await stream.get_final_message()
            stream = await client.messages.attach(id, timeout=10)
            with pytest.raises(RequestFailed, match="was not run any further"):
                [piece async for piece in stream.text_stream]

    perform(test, HELLO)


def read_in_threads(stage: RelayStage, id: str) -> None:
    """Read a failed request in each of the ways there are."""
    address = stage.settings.redis_url.get_secret_value()
    with Client(address, key_prefix=stage.settings.key_prefix) as client:
        request = client.messages.request(id)
        assert request.record().json("error")["type"] == "invalid_record"
        for read in (
            lambda: request.result(timeout=10),
            lambda: list(request.stream(timeout=10)),
            lambda: list(request.stream(timeout=10).text_stream),
            lambda: list(client.messages.attach(id, after="1-1", timeout=10)),
        ):
            with pytest.raises(RequestFailed, match="was not run any further") as failed:
                read()
            assert failed.value.error["type"] == "invalid_record"


def test_keys_of_another_type_fail_their_request(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        body, meta = stage.submit(), stage.submit()
        for key in (
            stage.settings.keys.request(body).request,
            stage.settings.keys.request(meta).meta,
        ):
            stage.connection.delete(key)
            stage.connection.lpush(key, "x")
            stage.connection.expire(key, 60)
        assert (await stage.end(body))["error"]["type"] == "invalid_record"
        assert (await stage.relay.run(meta)).state == "skipped"
        assert stage.connection.zscore(stage.settings.keys.live, meta) is None
        assert (await stage.end(stage.submit()))["state"] == "done"

    perform(test, HELLO)


def test_an_event_of_many_mb_is_written(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], end["characters"]) == ("done", len(large))
        assert stage.text(id) == large

    large = 12 * 2**20 * "x"
    perform(test, whole(large))


def test_an_outbox_that_cannot_be_written_ends_its_stream_alone(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(stage: RelayStage) -> None:
        ids = [stage.submit() for _ in range(4)]
        broken.append(ids[1])
        ends = await asyncio.gather(*map(stage.end, ids))
        assert [end["state"] for end in ends] == ["done", "failed", "done", "done"]
        assert ends[1]["error"] == {
            "type": "internal_error",
            "message": "TypeError in the worker",
        }
        record = stage.record(ids[1])
        assert record["state"] == "failed"
        assert orjson.loads(record["error"]) == ends[1]["error"]
        assert not stage.connection.exists(stage.settings.keys.request(ids[1]).lease)

    broken: list[str] = []
    spoil_notes(monkeypatch, broken)
    perform(test, HELLO)
    assert sum("cannot be written" in message for message in caplog.messages) == 1


def spoil_notes(monkeypatch: pytest.MonkeyPatch, broken: list[str]) -> None:
    """Plant a bug: the first notes of some requests hold what Redis cannot store."""
    from tasks.streams.claim import ClaimedRequest

    start_attempt = ClaimedRequest.start_attempt

    def spoiled(request: ClaimedRequest) -> None:
        start_attempt(request)
        if request.id in broken:
            request.outbox.note(odd=object())

    monkeypatch.setattr(ClaimedRequest, "start_attempt", spoiled)


def test_a_last_event_that_cannot_be_built_is_replaced_by_a_minimal_one(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> dict[str, Any]:
        raise UnicodeError("odd")

    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        (result,) = await stage.run(id)
        assert result.state == "failed"
        end = stage.events(id)[-1].data
        assert end["error"]["message"] == "UnicodeError in the worker"
        assert stage.record(id)["state"] == "failed"
        assert stage.text(id) == "Hello"

    monkeypatch.setattr(relay_module, "end_event", failing)
    with caplog.at_level(logging.ERROR):
        perform(test, HELLO)
    assert all(record.exc_info for record in caplog.records)


def refusal(body: bytes, headers: bytes = b"") -> Answer:
    head = b"HTTP/1.1 529 Overloaded\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return Answer(head + headers + b"content-length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize(
    "refused",
    [
        refusal(b'{"type":"error","error":{"type":"overloaded_\\ud800","message":"\\udc00"}}'),
        refusal(b'{"type":"error","error":{"type":["a"],"message":{"b":1}}}'),
        refusal(b'{"error":{"type":"overloaded_error","message":3,"details":[1]}}'),
        refusal(b'{"error":[1]}'),
        refusal(b"\xff\xfe", b"request-id: \xff\xfe\r\n"),
    ],
)
def test_a_refusal_is_retried_whatever_its_body_and_headers_contain(
    perform: Perform, refused: Answer
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        results = await stage.run(id)
        assert [result.state for result in results] == ["retry", "done"]
        assert "HTTP 529" in results[0].reason

    perform(test, refused, HELLO)
