"""How an interrupted answer is resumed: what is sent to the API, what is discarded."""

from typing import Any

import pytest

from tasks.streams.continuation import AttemptPlan, Mode, OnInterrupt, plan_attempt
from tasks.streams.overlap import OverlapFilter, WhitespaceFilter
from tasks.streams.partial_message import PartialMessage

BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}


LONG = " ".join(f"w{number}" for number in range(300))  #: 1,389 bytes


def published(*blocks: tuple[str, str, bool]) -> PartialMessage:
    """An answer with these blocks: kind, text, whether it is still open."""
    answer = PartialMessage()
    answer.apply({"type": "message_start", "message": {}})
    for index, (kind, text, still_open) in enumerate(blocks):
        block = {"type": kind}
        answer.apply({"type": "content_block_start", "index": index, "content_block": block})
        if text:
            delta = {"type": "text_delta", "text": text}
            event = {"type": "content_block_delta", "index": index, "delta": delta}
            answer.apply(event)
        if not still_open:
            answer.apply({"type": "content_block_stop", "index": index})
    return answer


def planned(answer: PartialMessage, *, prefill: bool = True, **body: Any) -> AttemptPlan:
    return plan_attempt(answer, {**BODY, **body}, OnInterrupt.CONTINUE, prefill=prefill)


def test_the_first_attempt_sends_the_body_as_it_is() -> None:
    first = planned(PartialMessage())
    assert (first.mode, first.body, first.rewind, first.continues) == (Mode.START, BODY, None, None)


def test_a_partial_text_becomes_a_prefill_without_its_trailing_white_space() -> None:
    again = planned(published(("text", "Water flows \n", True)))
    assert again.mode is Mode.PREFILL
    assert again.body["messages"] == [
        *BODY["messages"],
        {"role": "assistant", "content": "Water flows"},
    ]
    assert isinstance(again.text_filter, WhitespaceFilter)
    assert (again.continues, again.first_index, again.rewind) == (0, 1, None)


def test_a_model_without_prefill_gets_a_user_turn_that_quotes_the_whole_text() -> None:
    again = planned(published(("text", "The water {flows} \n", True)), prefill=False)
    assert again.mode is Mode.USER_TURN
    *before, turn = again.body["messages"]
    assert before == BODY["messages"]
    assert turn["role"] == "user"
    assert "<previous_response>The water {flows} \n</previous_response>" in turn["content"]
    assert isinstance(again.text_filter, OverlapFilter)


@pytest.mark.parametrize("text", ["Ha", "The old sluice ", "-" * 60])
def test_a_text_too_short_or_periodic_to_recognise_a_repetition_is_restarted(text: str) -> None:
    begun = published(("thinking", "", False), ("text", text, True))
    again = planned(begun, prefill=False)
    assert (again.mode, again.body, again.rewind) == (Mode.RESTART, BODY, (0, 0))
    assert planned(begun).mode is Mode.PREFILL  # a prefill is never repeated


@pytest.mark.parametrize(
    ("limit", "budget", "text", "left"),
    [
        (100, None, "Water flows in a pipe.", 95),
        (100, None, "日本の水門は川の水を止めるための門", 88),
        (100, None, LONG, 1),
        (1, None, "Water flows in a pipe.", 1),
        (2048, 1024, "Water flows in a pipe.", 2043),
        (1100, 1024, LONG, 1025),
        (1000, 1024, LONG, 1000),  # interleaved thinking may exceed the limit
    ],
)
@pytest.mark.parametrize("prefill", [True, False])
def test_text_already_written_counts_against_max_tokens(
    limit: int, budget: int | None, text: str, left: int, prefill: bool
) -> None:
    body: dict[str, Any] = {"max_tokens": limit}
    if budget:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    again = planned(published(("text", text, True)), prefill=prefill, **body)
    assert again.body["max_tokens"] == left


def test_a_restarted_answer_has_all_of_max_tokens() -> None:
    again = plan_attempt(
        published(("text", "Water", True)), BODY, OnInterrupt.RESTART, prefill=True
    )
    assert again.body["max_tokens"] == BODY["max_tokens"]


def test_the_producers_body_is_never_changed() -> None:
    body = {**BODY, "messages": [*BODY["messages"]]}
    plan_attempt(published(("text", "Water", True)), body, OnInterrupt.CONTINUE, prefill=True)
    assert body == BODY


def test_a_request_with_thinking_is_not_prefilled() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    text = ("text", "Water flows in a pipe.", True)
    again = planned(published(("thinking", "", False), text), thinking=thinking)
    assert again.mode is Mode.USER_TURN


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "tool_use", "server_tool_use"])
@pytest.mark.parametrize("still_open", [True, False])
def test_blocks_after_the_last_text_are_discarded(kind: str, still_open: bool) -> None:
    again = planned(published(("text", "Water", False), (kind, "", still_open)))
    assert (again.rewind, again.first_index, again.continues) == ((1, 0), 1, None)


@pytest.mark.parametrize("kind", ["thinking", "tool_use"])
@pytest.mark.parametrize("still_open", [True, False])
def test_an_answer_without_text_is_restarted(kind: str, still_open: bool) -> None:
    again = planned(published((kind, "", still_open)))
    assert (again.mode, again.body, again.rewind) == (Mode.RESTART, BODY, (0, 0))


def test_an_answer_of_white_space_alone_is_restarted() -> None:
    again = planned(published(("text", " \n", True)))
    assert (again.mode, again.rewind) == (Mode.RESTART, (0, 0))


def test_a_block_of_white_space_after_the_last_text_is_discarded() -> None:
    again = planned(published(("text", "Water", False), ("text", " \n", True)))
    assert (again.rewind, again.continues) == ((1, 0), None)


def test_a_restart_discards_what_was_received() -> None:
    answer = published(("text", "Water", True))
    again = plan_attempt(answer, BODY, OnInterrupt.RESTART, prefill=True)
    assert (again.mode, again.body, again.rewind) == (Mode.RESTART, BODY, (0, 0))


def test_a_structured_answer_is_restarted_because_it_must_be_one_document() -> None:
    structured = {"format": {"type": "json_schema", "schema": {}}}
    again = planned(published(("text", '{"a":', True)), output_config=structured)
    assert (again.mode, again.rewind) == (Mode.RESTART, (0, 0))


@pytest.mark.parametrize("prefill", [True, False])
def test_texts_before_and_after_a_tool_call_are_both_quoted_to_the_model(prefill: bool) -> None:
    answer = published(
        ("text", "One more gate. ", False), ("tool_use", "", False), ("text", "Two", True)
    )
    again = planned(answer, prefill=prefill)
    assert "One more gate. Two" in again.body["messages"][-1]["content"]
    assert (again.continues, again.first_index, again.rewind) == (2, 3, None)


def test_a_producers_own_prefill_stays_before_what_was_received() -> None:
    messages = [*BODY["messages"], {"role": "assistant", "content": "Surely:"}]
    again = planned(published(("text", " water", True)), messages=messages)
    said = "".join(m["content"] for m in again.body["messages"] if m["role"] == "assistant")
    assert said == "Surely: water"
