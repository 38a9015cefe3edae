"""Answer: what is known of an answer, and when it is one."""

from hashlib import sha256
from typing import Any

import pytest

from tasks.answer import TRANSIENT, Answer, StreamBroken

START = {
    "type": "message_start",
    "message": {"usage": {"input_tokens": 9, "output_tokens": 1, "service_tier": "standard"}},
}
STOP = {"type": "message_stop"}


def text(piece: str) -> dict[str, Any]:
    delta = {"type": "text_delta", "text": piece}
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def finish(reason: str | None = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def after(*events: dict[str, Any]) -> Answer:
    answer = Answer()
    for event in events:
        answer.apply(event)
    return answer


@pytest.mark.parametrize(
    ("seen", "complete"),
    [
        ([], False),
        ([START], False),
        ([START, text("x")], False),
        ([START, finish()], False),
        ([START, STOP], False),
        ([START, finish(None), STOP], False),
        ([START, finish(), STOP], True),
        ([START, finish("refusal"), STOP], True),
        ([START, finish("end_turn"), finish(None), STOP], True),
    ],
)
def test_an_answer_is_complete_with_a_stop_reason_and_its_last_event(
    seen: list[dict[str, Any]], complete: bool
) -> None:
    assert after(*seen).complete is complete


def test_text_is_counted_and_hashed_as_readers_see_it() -> None:
    answer = after(START, text("日本 "), text(""), text("🚰"))
    assert answer.characters == 4
    assert answer.text_sha256 == sha256("日本 🚰".encode()).hexdigest()
    assert after().text_sha256 == sha256(b"").hexdigest()


def test_thinking_and_tool_input_are_no_visible_text() -> None:
    hidden = [
        {"type": "thinking_delta", "thinking": "x"},
        {"type": "input_json_delta", "partial_json": "{"},
        {"type": "signature_delta", "signature": "x"},
        {"type": "brand_new_delta", "text": "x"},
    ]
    events = [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in hidden]
    answer = after(START, *events)
    assert answer.characters == 0
    assert answer.has_delta


def test_usage_is_cumulative_and_null_means_unchanged() -> None:
    answer = after(START, finish(output_tokens=5), finish(output_tokens=8, input_tokens=None))
    assert answer.usage == {"input_tokens": 9, "output_tokens": 8, "service_tier": "standard"}


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"type": "ping"}, False),
        (START, True),
        (text("x"), True),
        (finish(), True),
        (STOP, True),
        ({"type": "brand_new", "x": 1}, True),
        ({}, True),
    ],
)
def test_readers_see_everything_but_pings(event: dict[str, Any], shown: bool) -> None:
    assert Answer().apply(event) is shown


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        (
            {"error": {"type": "overloaded_error", "message": "Overloaded"}},
            "overloaded_error",
            "Overloaded",
        ),
        ({"error": {}}, "api_error", "no message"),
        ({"error": None}, "api_error", "no message"),
        ({}, "api_error", "no message"),
        ({"error": "overloaded"}, "api_error", "overloaded"),
    ],
)
def test_an_error_in_the_middle_breaks_the_answer(
    event: dict[str, Any], kind: str, message: str
) -> None:
    with pytest.raises(StreamBroken) as broken:
        after(START, text("x"), {"type": "error", **event})
    assert broken.value.error == {"type": kind, "message": message}
    assert str(broken.value) == f"{kind}: {message}"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": 0},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}},
        {"type": "message_start"},
    ],
)
def test_an_event_of_a_form_that_nobody_knows_is_passed_on(event: dict[str, Any]) -> None:
    assert Answer().apply(event)


def test_what_was_received_before_a_break_is_still_known() -> None:
    answer = after(START, text("half"))
    with pytest.raises(StreamBroken):
        answer.apply({"type": "error", "error": {"type": "api_error", "message": "x"}})
    assert answer.characters == 4
    assert not answer.complete


def test_an_overload_passes_and_a_refused_request_does_not() -> None:
    assert "overloaded_error" in TRANSIENT
    assert "rate_limit_error" in TRANSIENT
    assert not {"invalid_request_error", "authentication_error", "billing_error"} & TRANSIENT
