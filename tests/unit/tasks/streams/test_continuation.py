"""How an answer that broke off is gone on with: what is asked, what is discarded."""

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


def test_a_partial_text_becomes_a_prefill_without_its_last_blanks() -> None:
    again = planned(published(("text", "Water flows \n", True)))
    assert again.mode is Mode.PREFILL
    assert again.body["messages"] == [
        *BODY["messages"],
        {"role": "assistant", "content": "Water flows"},
    ]
    assert isinstance(again.text_filter, WhitespaceFilter)
    assert (again.continues, again.first_index, again.rewind) == (0, 1, None)


def test_a_model_without_prefill_is_asked_in_a_user_turn_that_quotes_all_of_it() -> None:
    again = planned(published(("text", "The water {flows} \n", True)), prefill=False)
    assert again.mode is Mode.USER_TURN
    *before, turn = again.body["messages"]
    assert before == BODY["messages"]
    assert turn["role"] == "user"
    assert "<previous_response>The water {flows} \n</previous_response>" in turn["content"]
    assert isinstance(again.text_filter, OverlapFilter)


@pytest.mark.parametrize("text", ["Ha", "The old sluice ", "-" * 60])
def test_a_beginning_that_might_be_said_again_by_right_is_asked_for_anew(text: str) -> None:
    begun = published(("thinking", "", False), ("text", text, True))
    again = planned(begun, prefill=False)
    assert (again.mode, again.body, again.rewind) == (Mode.RESTART, BODY, (0, 0))
    assert planned(begun).mode is Mode.PREFILL  # which is never said again


@pytest.mark.parametrize(
    ("limit", "budget", "text", "left"),
    [
        (100, None, "Water flows in a pipe.", 95),
        (100, None, "日本の水門は川の水を止めるための門", 88),
        (100, None, LONG, 1),
        (1, None, "Water flows in a pipe.", 1),
        (2048, 1024, "Water flows in a pipe.", 2043),
        (1100, 1024, LONG, 1025),
        (1000, 1024, LONG, 1000),  # interleaved thinking may go over the limit
    ],
)
@pytest.mark.parametrize("prefill", [True, False])
def test_what_was_written_counts_against_the_limit(
    limit: int, budget: int | None, text: str, left: int, prefill: bool
) -> None:
    body: dict[str, Any] = {"max_tokens": limit}
    if budget:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    again = planned(published(("text", text, True)), prefill=prefill, **body)
    assert again.body["max_tokens"] == left


def test_an_answer_that_is_asked_for_anew_has_the_whole_limit() -> None:
    again = plan_attempt(
        published(("text", "Water", True)), BODY, OnInterrupt.RESTART, prefill=True
    )
    assert again.body["max_tokens"] == BODY["max_tokens"]


def test_the_producers_body_is_never_changed() -> None:
    body = {**BODY, "messages": [*BODY["messages"]]}
    plan_attempt(published(("text", "Water", True)), body, OnInterrupt.CONTINUE, prefill=True)
    assert body == BODY


def test_a_request_that_thinks_is_not_prefilled() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    text = ("text", "Water flows in a pipe.", True)
    again = planned(published(("thinking", "", False), text), thinking=thinking)
    assert again.mode is Mode.USER_TURN


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "tool_use", "server_tool_use"])
@pytest.mark.parametrize("still_open", [True, False])
def test_what_stands_behind_the_last_text_is_discarded(kind: str, still_open: bool) -> None:
    again = planned(published(("text", "Water", False), (kind, "", still_open)))
    assert (again.rewind, again.first_index, again.continues) == ((1, 0), 1, None)


@pytest.mark.parametrize("kind", ["thinking", "tool_use"])
@pytest.mark.parametrize("still_open", [True, False])
def test_without_any_text_everything_is_asked_anew(kind: str, still_open: bool) -> None:
    again = planned(published((kind, "", still_open)))
    assert (again.mode, again.body, again.rewind) == (Mode.RESTART, BODY, (0, 0))


def test_white_space_alone_is_no_text_to_go_on_with() -> None:
    again = planned(published(("text", " \n", True)))
    assert (again.mode, again.rewind) == (Mode.RESTART, (0, 0))


def test_white_space_behind_the_last_text_is_discarded_with_its_block() -> None:
    again = planned(published(("text", "Water", False), ("text", " \n", True)))
    assert (again.rewind, again.continues) == ((1, 0), None)


def test_a_restart_discards_what_was_received() -> None:
    answer = published(("text", "Water", True))
    again = plan_attempt(answer, BODY, OnInterrupt.RESTART, prefill=True)
    assert (again.mode, again.body, again.rewind) == (Mode.RESTART, BODY, (0, 0))


def test_an_answer_that_has_to_be_one_document_is_asked_anew() -> None:
    structured = {"format": {"type": "json_schema", "schema": {}}}
    again = planned(published(("text", '{"a":', True)), output_config=structured)
    assert (again.mode, again.rewind) == (Mode.RESTART, (0, 0))


@pytest.mark.parametrize("prefill", [True, False])
def test_texts_on_both_sides_of_a_tool_are_both_shown_to_the_model(prefill: bool) -> None:
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
