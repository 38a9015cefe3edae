"""How an answer that broke off is gone on with: what is asked, what is discarded."""

from typing import Any

import pytest

from tasks.continuation import Mode, OnBreak, Plan, plan
from tasks.seam import OverlapSeam, PrefillSeam
from tasks.transcript import Transcript

BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}


def published(*blocks: tuple[str, str, bool]) -> Transcript:
    """A transcript with these blocks: kind, text, whether it is still open."""
    transcript = Transcript()
    transcript.apply({"type": "message_start", "message": {}})
    for index, (kind, text, still_open) in enumerate(blocks):
        block = {"type": kind}
        transcript.apply({"type": "content_block_start", "index": index, "content_block": block})
        if text:
            delta = {"type": "text_delta", "text": text}
            event = {"type": "content_block_delta", "index": index, "delta": delta}
            transcript.apply(event)
        if not still_open:
            transcript.apply({"type": "content_block_stop", "index": index})
    return transcript


def planned(transcript: Transcript, *, prefill: bool = True, **body: Any) -> Plan:
    return plan(transcript, {**BODY, **body}, OnBreak.CONTINUE, prefill=prefill)


def test_the_first_attempt_sends_the_body_as_it_is() -> None:
    first = planned(Transcript())
    assert (first.mode, first.body, first.rewind, first.joins) == (Mode.START, BODY, None, None)


def test_a_partial_text_becomes_a_prefill_without_its_last_blanks() -> None:
    again = planned(published(("text", "Water flows \n", True)))
    assert again.mode is Mode.PREFILL
    assert again.body["messages"] == [
        *BODY["messages"],
        {"role": "assistant", "content": "Water flows"},
    ]
    assert isinstance(again.seam, PrefillSeam)
    assert (again.joins, again.first, again.rewind) == (0, 1, None)


def test_a_model_without_prefill_is_asked_in_a_user_turn_that_quotes_all_of_it() -> None:
    again = planned(published(("text", "Water {flows} \n", True)), prefill=False)
    assert again.mode is Mode.USER_TURN
    *before, turn = again.body["messages"]
    assert before == BODY["messages"]
    assert turn["role"] == "user"
    assert "<previous_response>Water {flows} \n</previous_response>" in turn["content"]
    assert isinstance(again.seam, OverlapSeam)


def test_the_producers_body_is_never_changed() -> None:
    body = {**BODY, "messages": [*BODY["messages"]]}
    plan(published(("text", "Water", True)), body, OnBreak.CONTINUE, prefill=True)
    assert body == BODY


def test_a_request_that_thinks_is_not_prefilled() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    again = planned(published(("thinking", "", False), ("text", "Water", True)), thinking=thinking)
    assert again.mode is Mode.USER_TURN


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "tool_use", "server_tool_use"])
@pytest.mark.parametrize("still_open", [True, False])
def test_what_stands_behind_the_last_text_is_discarded(kind: str, still_open: bool) -> None:
    again = planned(published(("text", "Water", False), (kind, "", still_open)))
    assert (again.rewind, again.first, again.joins) == ((1, 0), 1, None)


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
    assert (again.rewind, again.joins) == ((1, 0), None)


def test_a_restart_discards_what_was_received() -> None:
    transcript = published(("text", "Water", True))
    again = plan(transcript, BODY, OnBreak.RESTART, prefill=True)
    assert (again.mode, again.body, again.rewind) == (Mode.RESTART, BODY, (0, 0))


def test_an_answer_that_has_to_be_one_document_is_asked_anew() -> None:
    structured = {"format": {"type": "json_schema", "schema": {}}}
    again = planned(published(("text", '{"a":', True)), output_config=structured)
    assert (again.mode, again.rewind) == (Mode.RESTART, (0, 0))


@pytest.mark.parametrize("prefill", [True, False])
def test_texts_on_both_sides_of_a_tool_are_both_shown_to_the_model(prefill: bool) -> None:
    transcript = published(("text", "One. ", False), ("tool_use", "", False), ("text", "Two", True))
    again = planned(transcript, prefill=prefill)
    assert "One. Two" in again.body["messages"][-1]["content"]
    assert (again.joins, again.first, again.rewind) == (2, 3, None)


def test_a_producers_own_prefill_stays_before_what_was_received() -> None:
    messages = [*BODY["messages"], {"role": "assistant", "content": "Surely:"}]
    again = planned(published(("text", " water", True)), messages=messages)
    said = "".join(m["content"] for m in again.body["messages"] if m["role"] == "assistant")
    assert said == "Surely: water"
