"""Relay: how often a call is repeated, and what counts as an attempt."""

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tasks.streams.rate_limiter import RateLimiter
from tests.contract.tasks.streams.raw_api import (
    OK,
    Answer,
    answer,
    error_event,
    sse,
    start,
    text,
    whole,
)
from tests.contract.tasks.streams.relay_stage import PREFILL, USER_TURN, RelayStage

Perform = Callable[..., Any]

SILENT = Answer(is_silent=True)
CLOSED = Answer()
CLOSED_IN_HEADERS = Answer(OK)
LOST_AFTER_HEADERS = Answer(OK + b"content-length: 999\r\n\r\n")
SILENT_AFTER_HEADERS = Answer(OK + b"\r\n", is_silent=True)
HUGE_HEADER = b"x-gateway: " + 60_000 * b"a" + b"\r\n"
MANY_HEADERS = b"".join(b"x-gateway-%d: a\r\n" % i for i in range(300))


@pytest.mark.parametrize("unanswered", [SILENT, CLOSED, CLOSED_IN_HEADERS])
def test_a_call_without_an_answer_is_an_attempt(perform: Perform, unanswered: Answer) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], end["error"]["type"]) == ("failed", "connection_error")
        assert stage.api.calls == end["attempts"] == 3
        assert "api_retries" not in stage.record(id)
        assert end["usage_estimated"]
        # No response, so nothing is known of the rate limit.
        assert not stage.connection.exists(stage.settings.keys.rate_limit(PREFILL))
        assert "3 calls without progress (PENSTOCK_MAX_ATTEMPTS)" in end["error"]["message"]
        if unanswered is SILENT:
            words = "no response for 0.3 s (PENSTOCK_STREAM_IDLE_TIMEOUT_S)"
            assert words in end["error"]["message"]

    perform(test, unanswered, max_attempts=3)


@pytest.mark.parametrize(
    "unanswered", [SILENT, CLOSED, CLOSED_IN_HEADERS, LOST_AFTER_HEADERS, SILENT_AFTER_HEADERS]
)
def test_an_answer_after_calls_without_one_is_complete(
    perform: Perform, unanswered: Answer
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], end["attempts"], end["usage_estimated"]) == ("done", 3, True)
        assert stage.text(id) == "Hello you"

    perform(test, unanswered, unanswered, whole("Hello", " you"))


def test_a_call_without_an_answer_is_not_repeated_if_the_producer_wants_no_resumption(
    perform: Perform,
) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit(on_interrupt="fail"))
        assert (end["state"], end["attempts"], stage.api.calls) == ("failed", 1, 1)

    perform(test, CLOSED)


@pytest.mark.parametrize("status", [504, 524])
def test_a_gateway_that_got_no_answer_from_the_api_costs_attempts(
    perform: Perform, status: int
) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit())
        assert (end["state"], end["error"]["status"]) == ("failed", status)
        assert stage.api.calls == end["attempts"] == 3

    perform(
        test, Answer(b"HTTP/1.1 %d Timeout\r\ncontent-length: 0\r\n\r\n" % status), max_attempts=3
    )


@pytest.mark.parametrize("kind", [b"application/json", b"text/html"])
def test_a_refusal_as_the_whole_body_is_deferred_whatever_its_type(
    perform: Perform, kind: bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit())
        assert (end["state"], end["attempts"], stage.api.calls) == ("done", 1, 4)

    body = json.dumps(error_event("overloaded_error")).encode()
    refusal = Answer(
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: " + kind + b"\r\n\r\n" + body
    )
    perform(test, refusal, refusal, refusal, whole("Hello"), max_attempts=2)


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>Please log in</body></html>",
        b'{"error": {"message": "no", "type": "server_error"}}',
        3_000 * b"[",
        sse(*start()).replace(b'"index": 0', b'"index": 5'),
        sse(*start(), *text("a")).replace(b'"text": "a"', b'"text": null'),
        sse(*start(), error_event("api_error")),
        sse(*start()).replace(b'"usage": {', b'"usage": [], "x": {'),
    ],
)
@pytest.mark.parametrize("model", [PREFILL, USER_TURN])
def test_a_response_that_is_not_the_apis_is_billed_twice_at_most(
    perform: Perform, body: bytes, model: str
) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit(model))
        assert end["state"] == "failed"
        assert stage.api.calls == end["attempts"] <= 2

    perform(test, Answer(OK + b"\r\n" + body))


def test_an_api_that_cannot_be_reached_costs_no_attempt(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert end["error"]["type"] == "connection_error"
        assert "the API at http://127.0.0.1:1 cannot be reached" in end["error"]["message"]
        assert (end["attempts"], stage.record(id)["api_retries"]) == (0, "4")
        assert not end["usage_estimated"]

    perform(test, CLOSED, ANTHROPIC_BASE_URL="http://127.0.0.1:1", max_api_retries=4)


@pytest.mark.parametrize("headers", [HUGE_HEADER, MANY_HEADERS])
def test_large_and_many_headers_are_read(perform: Perform, headers: bytes) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit())
        assert (end["state"], stage.api.calls) == ("done", 1)

    perform(test, whole("Hello", headers=headers))


@pytest.mark.parametrize("headers", [b"x-gateway: " + 120_000 * b"a" + b"\r\n", b"no colon\r\n"])
def test_headers_that_cannot_be_read_end_a_request_after_two_calls(
    perform: Perform, headers: bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit())
        assert (end["state"], end["attempts"], stage.api.calls) == ("failed", 2, 2)
        assert "the same fault occurred at the same place" in end["error"]["message"]

    perform(test, whole("Hello", headers=headers))


@pytest.mark.parametrize(
    "body",
    [
        b"data: {not JSON}\n\n",
        b'data: {"type":"error","error":{"type":"api_error","message":"Internal"}}\n\n',
        b"",
        b"event: ping\ndata: {}\n\n",
    ],
)
@pytest.mark.parametrize("before", [[], start(), [*start(), *text("some ", "words")]])
@pytest.mark.parametrize("model", [PREFILL, USER_TURN])
def test_a_deterministic_fault_is_billed_twice_at_most(
    perform: Perform, body: bytes, before: list[dict[str, Any]], model: str
) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit(model, output_config={"format": {"type": "x"}}))
        assert end["state"] == "failed"
        assert stage.api.calls == end["attempts"] <= 2

    perform(test, Answer(answer(*before).data + body))


@pytest.mark.parametrize("event", ["message_delta", "message_stop"])
def test_an_invalid_end_is_billed_twice_although_the_first_call_sent_the_whole_text(
    perform: Perform, event: str
) -> None:
    end = {"type": event, "delta": 5}
    first = answer(*start(), *text("all ", "of the answer"), end)
    others = answer(*start(), end)

    async def test(stage: RelayStage) -> None:
        ended = await stage.end(stage.submit(PREFILL))
        assert (ended["state"], ended["error"]["type"]) == ("failed", "invalid_response")
        assert stage.api.calls == ended["attempts"] == 2

    perform(test, first, others)


def test_a_fault_at_another_place_is_retried(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit(USER_TURN))
        assert (end["state"], end["attempts"]) == ("failed", 4)

    faults = [answer(*start(), *text(*count * ["a"])) for count in (1, 2, 1, 2)]
    perform(test, *faults, max_attempts=4)


PIECES = [f"piece {i:03} of it, " for i in range(40)]


@pytest.mark.parametrize("model", [PREFILL, USER_TURN])
def test_an_answer_that_advances_with_each_call_is_completed(perform: Perform, model: str) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit(model)
        end = await stage.end(id)
        assert (end["state"], end["attempts"]) == ("done", 20)
        assert stage.text(id) == "".join(PIECES)
        assert end["usage"]["input_tokens"] == 20 * 20

    cut = [answer(*start(), *text(*PIECES[i : i + 2])) for i in range(0, 38, 2)]
    perform(test, *cut, whole(*PIECES[38:]), max_attempts=3)


def test_an_answer_that_starts_again_each_time_does_not_advance(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit(on_interrupt="restart"))
        assert (end["state"], end["attempts"], stage.api.calls) == ("failed", 3, 3)

    cut = [answer(*start(), *text(*PIECES[: i + 1])) for i in range(10)]
    perform(test, *cut, max_attempts=3)


def test_resuming_is_bounded_by_what_complete_answers_would_have_cost(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit(max_tokens=50))
        assert (end["state"], end["error"]["type"]) == ("failed", "incomplete_stream")
        assert "cost more than PENSTOCK_MAX_ATTEMPTS" in end["error"]["message"]
        assert 3 <= end["attempts"] <= 6

    cut = [answer(*start(input_tokens=10_000), *text(20 * each)) for each in PIECES]
    perform(test, *cut, max_attempts=3)


@pytest.mark.parametrize(
    "refusal",
    [
        answer(error_event("overloaded_error")),
        answer({"type": "ping"}, error_event("rate_limit_error"), is_silent=True),
        Answer(OK + b'\r\n{"error": {"type": "overloaded_error", "message": "no"}}'),
    ],
)
def test_a_refusal_in_the_stream_is_deferred_like_one_by_status(
    perform: Perform, refusal: Answer
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        results = await stage.run(id)
        assert [result.state for result in results] == [*9 * ["retry"], "done"]
        assert "HTTP 529" in results[0].reason or "HTTP 429" in results[0].reason
        end = stage.events(id)[-1].data
        assert (end["attempts"], end["usage_estimated"]) == (1, False)
        assert stage.record(id)["api_retries"] == "9"
        limit = stage.connection.hgetall(stage.settings.keys.rate_limit(PREFILL))
        assert limit
        assert [event.type for event in stage.events(id)].count("penstock.attempt") == 0

    perform(test, *9 * [refusal], whole("Hello"), max_attempts=2)


def test_refusals_in_the_stream_are_bounded(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit())
        assert (end["state"], end["error"]["type"]) == ("failed", "overloaded_error")
        assert (end["attempts"], stage.api.calls) == (0, 4)

    perform(test, answer(error_event("overloaded_error")), max_api_retries=4)


def test_refusals_are_counted_over_all_workers(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        for name in ("w2", "w3", "w4"):
            result = await stage.relay.run(id)
            stage.relay = stage.new_relay(name)
        assert result.state == "failed"
        assert stage.record(id)["api_retries"] == str(stage.api.calls) == "3"

    perform(test, answer(error_event("overloaded_error")), max_api_retries=3)


def test_a_refusal_creates_no_record_in_place_of_one_that_was_deleted(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        keys = stage.settings.keys.request(id)

        async def acquire(*_: Any) -> float:
            stage.connection.delete(keys.meta, keys.lease)
            return 0.0

        monkeypatch.setattr(RateLimiter, "acquire", acquire)
        (result,) = await stage.run(id)
        assert (result.state, stage.api.calls) == ("skipped", 1)
        assert not stage.connection.exists(keys.meta)

    perform(test, answer(error_event("overloaded_error")))


def test_an_overload_in_the_middle_is_an_interruption_and_not_deterministic(
    perform: Perform,
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], end["attempts"]) == ("failed", 4)
        assert orjson.loads(stage.record(id)["error"])["type"] == "overloaded_error"

    perform(test, answer(*start(), error_event("overloaded_error")), max_attempts=4)


@pytest.mark.parametrize("nothing", [CLOSED, LOST_AFTER_HEADERS, Answer(OK + b"\r\n<html>")])
def test_a_call_without_an_answer_withdraws_no_text(perform: Perform, nothing: Answer) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit(on_interrupt="restart")
        end = await stage.end(id)
        assert (end["state"], end["characters"]) == ("failed", len(PIECES[0]))
        assert stage.text(id) == PIECES[0]
        types = [event.type for event in stage.events(id)]
        assert types.count("penstock.attempt") == end["attempts"] - 1
        assert "penstock.rewind" not in types

    perform(test, answer(*start(), *text(PIECES[0])), nothing, max_attempts=3)


def test_text_is_withdrawn_when_the_next_answer_begins(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit(on_interrupt="restart")
        end = await stage.end(id)
        assert (end["state"], stage.text(id)) == ("done", "Another answer")
        types = [event.type for event in stage.events(id)]
        assert types.count("penstock.rewind") == 1

    perform(test, answer(*start(), *text(PIECES[0])), CLOSED, whole("Another answer"))


@pytest.mark.parametrize(
    ("begin", "repeated"),
    [
        (OK, b"x-gateway: a\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        (OK + b"\r\n", sse({"type": "ping"})),
        (OK + b"\r\n", b": keepalive\n\n"),
        (OK + b"\r\n", b" "),
        (OK + b"\r\n" + sse(*start(), *text("Hello you")), sse({"type": "ping"})),
        (OK + b"\r\n" + sse(*start()), sse(*text("and so on "))),
    ],
)
def test_a_response_that_never_ends_is_ended_by_the_total_timeout(
    perform: Perform, begin: bytes, repeated: bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], end["error"]["type"]) == ("failed", "timeout_error")
        assert "PENSTOCK_STREAM_TOTAL_TIMEOUT_S" in end["error"]["message"]
        assert stage.api.calls == end["attempts"] == 1
        assert end["usage_estimated"]
        assert stage.text(id).startswith("Hello you" if b"Hello" in begin else "")

    perform(test, Answer(begin, repeated=repeated), stream_total_timeout_s=1.0)
