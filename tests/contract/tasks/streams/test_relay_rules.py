"""Relay: which requests are called at all, which are called again, and how they are continued."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from penstock.clock import now_ms
from penstock.store import request_scripts
from tests.contract.tasks.streams.raw_api import Answer, answer, error_event, start, text, whole
from tests.contract.tasks.streams.relay_stage import PREFILL, USER_TURN, RelayStage

Perform = Callable[..., Any]

HELLO = whole("Hello")
CUT = answer(*start(), *text("Once upon a time there "))
HOUR_MS = 3_600_000


def set_fields(stage: RelayStage, id: str, **fields: Any) -> None:
    stage.connection.hset(stage.settings.keys.request(id).meta, mapping=fields)


def lose(stage: RelayStage, id: str, *, attempts: int = 0) -> None:
    """Claim the request as a worker that is then lost."""
    keys = stage.settings.keys.request(id)
    request_scripts.claim(keys, stage.settings.keys, worker="lost", lease_ms=60_000).run(
        stage.connection
    )
    stage.connection.delete(keys.lease)
    if attempts:
        set_fields(stage, id, attempts=attempts)


def status(code: int, reason: str, message: str, headers: bytes = b"") -> Answer:
    """A response that is an error of the API."""
    error = {"type": reason, "message": message}
    body = json.dumps({"type": "error", "error": error}).encode()
    head = b"HTTP/1.1 %d Error\r\ncontent-type: application/json\r\nconnection: close\r\n" % code
    return Answer(head + headers + b"content-length: %d\r\n\r\n" % len(body) + body)


def last_roles(stage: RelayStage, before: int) -> list[str]:
    """The role of the last message of each call after ``before`` calls."""
    return [body["messages"][-1]["role"] for body in stage.api.bodies[before:]]


def test_a_request_whose_body_has_expired_is_not_called(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        stage.connection.delete(stage.settings.keys.request(id).request)
        end = await stage.end(id)
        assert end["error"] == {
            "type": "not_found_error",
            "message": "the request's body has expired",
        }
        assert (end["state"], end["attempts"], stage.api.calls) == ("failed", 0, 0)

    perform(test, HELLO)


@pytest.mark.parametrize(
    ("passed_ms", "state", "calls"), [(1_000, "failed", 0), (-HOUR_MS, "done", 1)]
)
def test_a_request_is_not_called_for_the_first_time_after_its_deadline(
    perform: Perform, passed_ms: int, state: str, calls: int
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        set_fields(stage, id, deadline_ms=now_ms() - passed_ms)
        end = await stage.end(id)
        assert (end["state"], stage.api.calls) == (state, calls)
        if state == "failed":
            assert end["error"]["type"] == "deadline_exceeded"

    perform(test, HELLO)


@pytest.mark.parametrize(("left_ms", "state"), [(30_000, "done"), (-30_000, "failed")])
@pytest.mark.parametrize("ahead_s", [-60, 60])
def test_a_deadline_is_compared_with_the_clock_of_redis_whatever_that_of_the_worker_is(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, left_ms: int, state: str, ahead_s: int
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        set_fields(stage, id, deadline_ms=now_ms() + left_ms)
        clock = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: clock() + ahead_s * 10**9)
        end = await stage.end(id)
        assert end["state"] == state
        assert 0 <= end["total_ms"] < 60_000

    perform(test, HELLO)


@pytest.mark.parametrize("lost", [False, True])
def test_a_deadline_says_that_no_tokens_were_spent_only_if_no_worker_was_lost(
    perform: Perform, lost: bool
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        if lost:
            lose(stage, id)
        set_fields(stage, id, deadline_ms=now_ms() - 1_000)
        error = (await stage.end(id))["error"]
        assert error["type"] == "deadline_exceeded"
        assert ("no tokens were spent" in error["message"]) is not lost
        assert ("tokens may have been spent" in error["message"]) is lost

    perform(test, HELLO)


def test_an_answer_that_has_begun_is_resumed_after_its_deadline(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        lose(stage, id, attempts=1)
        set_fields(stage, id, deadline_ms=now_ms() - 1_000)
        end = await stage.end(id)
        assert (end["state"], end["attempts"]) == ("done", 2)

    perform(test, HELLO)


@pytest.mark.parametrize(("losses", "state"), [(2, "done"), (3, "failed")])
def test_a_request_that_its_workers_do_not_survive_is_given_up(
    perform: Perform, losses: int, state: str
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        for _ in range(losses):
            lose(stage, id)
        end = await stage.end(id)
        assert (end["state"], stage.api.calls) == (state, int(state == "done"))
        if state == "failed":
            message = f"{losses} workers were lost while they ran this request"
            assert end["error"] == {"type": "worker_lost", "message": message}

    perform(test, HELLO, max_worker_losses=3)


@pytest.mark.parametrize("attempts", [0, 1], ids=["perhaps called", "called"])
def test_an_answer_of_a_lost_worker_is_not_resumed_if_the_producer_wants_no_resumption(
    perform: Perform, attempts: int
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit(on_interrupt="fail")
        lose(stage, id, attempts=attempts)
        end = await stage.end(id)
        assert (end["state"], stage.api.calls) == ("failed", 0)
        assert end["error"] == {"type": "worker_lost", "message": "the worker was lost"}

    perform(test, HELLO)


@pytest.mark.parametrize(("age_s", "calls"), [(50, 2), (70, 1)])
def test_an_answer_is_resumed_only_within_the_time_for_the_whole_answer(
    perform: Perform, age_s: int, calls: int
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        set_fields(stage, id, started_ms=now_ms() - age_s * 1_000)
        end = await stage.end(id)
        assert stage.api.calls == calls
        if calls == 1:
            assert "(PENSTOCK_STREAM_TOTAL_TIMEOUT_S)" in end["error"]["message"]
            assert end["state"] == "failed"

    perform(test, CUT, whole("was."), stream_total_timeout_s=60)


def test_a_model_that_refuses_a_prefill_is_continued_without_one_from_then_on(
    perform: Perform,
) -> None:
    async def test(stage: RelayStage) -> None:
        for roles in (["user", "assistant", "user"], ["user", "user"]):
            before = stage.api.calls
            id = stage.submit()
            assert (await stage.end(id))["state"] == "done"
            assert stage.text(id) == "Once upon a time there was a queue."
            assert last_roles(stage, before) == roles

    refused = status(400, "invalid_request_error", "This model does not support prefill.")
    rest = whole("was a queue.")
    perform(test, CUT, refused, rest, CUT, rest)


def test_another_bad_request_in_place_of_a_resumption_is_not_repeated(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], stage.api.calls) == ("failed", 2)
        assert end["error"]["message"] == "max_tokens: too large"
        assert stage.text(id) == "Once upon a time there "

    perform(test, CUT, status(400, "invalid_request_error", "max_tokens: too large"))


@pytest.mark.parametrize("attempts", [0, 1])
def test_the_end_counts_no_text_that_the_worker_has_not_read(
    perform: Perform, attempts: int
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        lose(stage, id, attempts=attempts)
        set_fields(stage, id, cancel="alice")
        end = await stage.end(id)
        assert end["state"] == "canceled"
        assert end.get("characters") == (None if attempts else 0)
        assert ("text_sha256" in end) is not bool(attempts)

    perform(test, HELLO)


def test_a_request_that_the_api_refuses_for_now_waits_in_the_queue(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit(USER_TURN)
        first = await stage.relay.run(id)
        assert first.state == "retry"
        assert first.countdown_s == pytest.approx(7, rel=0.25)
        assert stage.record(id)["state"] == "queued"
        assert "HTTP 429" in first.reason
        other = await stage.relay.run(stage.submit(USER_TURN))
        assert other.state == "retry"
        assert "rate limit" in other.reason
        assert stage.api.calls == 1

    perform(
        test,
        status(429, "rate_limit_error", "Slow down.", headers=b"retry-after: 7\r\n"),
        api_retry_max_wait_s=60.0,
    )


REFUSALS = {
    "by status": status(429, "rate_limit_error", "Slow down.", b"retry-after: 0\r\n"),
    "in the stream": answer(error_event("overloaded_error")),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_resumption_that_was_refused_first_still_has_the_reason_of_the_interruption(
    perform: Perform, refusal: Answer
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        await stage.run(id, stage.new_relay("w2"))
        attempts = [e.data for e in stage.events(id) if e.type == "penstock.attempt"]
        assert [each["reason"] for each in attempts] == ["incomplete_stream"]
        assert stage.events(id)[-1].data["state"] == "done"
        assert "reason" not in json.loads(stage.record(id)["retry_budget"])

    cut = answer(*start(), *text("Once upon a time, there was"))
    perform(test, cut, refusal, refusal, whole(" a pump."))


def test_a_worker_recognises_the_fault_that_interrupted_the_call_of_another_worker(
    perform: Perform,
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        await stage.run(id, stage.new_relay("w2"))
        error = stage.events(id)[-1].data["error"]
        assert "the same fault occurred at the same place" in error["message"]
        assert stage.record(id)["attempts"] == "2"

    malformed = answer(
        *start(), *text("Once"), {"type": "content_block_delta", "index": 0, "delta": []}
    )
    perform(test, malformed, REFUSALS["by status"], malformed, whole("never asked for"))


def test_the_reason_of_a_resumption_after_the_loss_of_a_worker_is_takeover(
    perform: Perform,
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        lose(stage, id, attempts=1)
        await stage.end(id)
        attempts = [e.data for e in stage.events(id) if e.type == "penstock.attempt"]
        assert [each["reason"] for each in attempts] == ["takeover"]

    perform(test, REFUSALS["by status"], HELLO)


def test_one_request_that_the_api_refuses_for_ever_fails_alone(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        bad, good = stage.submit(), stage.submit()
        end = await stage.end(bad)
        assert (end["state"], end["attempts"], stage.api.calls) == ("failed", 0, 1)
        assert end["error"]["message"] == "messages: Field required"
        assert end["error"]["status"] == 400
        assert (await stage.end(good))["state"] == "done"

    perform(test, status(400, "invalid_request_error", "messages: Field required"), HELLO)


def test_only_models_that_take_a_prefill_are_continued_with_one(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        for model, role in ((PREFILL, "assistant"), (USER_TURN, "user")):
            before = stage.api.calls
            await stage.end(stage.submit(model))
            assert last_roles(stage, before) == ["user", role]

    rest = whole("was a queue.")
    perform(test, CUT, rest, CUT, rest)
