"""Text that a reader was given is never withdrawn by a further attempt."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import TextRewound
from penstock.events import ATTEMPT, END, QUEUED, REWIND, Event
from penstock.streams import final_text
from penstock.streams.final_text import TextFinal, TextStart, has_final_start, text_final
from penstock.streams.transcript import Transcript
from tasks.streams.continuation import Mode, OnInterrupt, plan_attempt
from tasks.streams.partial_message import PartialMessage

BODY: dict[str, Any] = {"model": "m", "max_tokens": 1000, "messages": []}
START: dict[str, Any] = {"type": "message_start", "message": {"content": [], "usage": {}}}
SENTENCE = "A penstock carries water."

words = st.sampled_from(["a", "-", "ab", " ", "\n", "water ", "penstock", "é", "|--"])
pieces = st.lists(words, min_size=1, max_size=12)
texts = pieces.map("".join)


def block(index: int, kind: str = "text") -> dict[str, Any]:
    content = {"type": kind, "text": ""} if kind == "text" else {"type": kind, "input": {}}
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(text: str, index: int = 0) -> dict[str, Any]:
    part = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": index, "delta": part}


def shown(events: list[dict[str, Any]], final: str | None = None) -> list[str]:
    """Return the pieces that a reader of these events is given."""
    transcript = Transcript()
    flow = transcript.flow(final)
    numbered = enumerate([{"type": QUEUED}, *events], 1)
    return [transcript.read(Event(1, n, data), flow) for n, data in numbered]


@given(texts, texts)
def test_a_final_start_stays_final_whatever_follows(text: str, more: str) -> None:
    assert not has_final_start(text) or has_final_start(text + more)


def has_final_start_by_definition(text: str) -> bool:
    start = text.strip()
    repeated = any(start.startswith(start[unit:]) for unit in range(1, final_text.MAX_UNIT + 1))
    return len(start) >= final_text.MIN_CHARACTERS and not repeated


@given(st.lists(st.one_of(words, st.sampled_from(["--------", "ab" * 9, " " * 20])), max_size=30))
def test_the_pieces_of_a_text_do_not_change_when_its_start_is_final(some: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(final_text, "_CHARACTERS_AT_ONCE", 7)
        start = TextStart()
        for n, piece in enumerate(some, 1):
            start.add(piece)
            assert start.is_final is has_final_start_by_definition("".join(some[:n]))


@pytest.mark.parametrize("final", list(TextFinal))
@pytest.mark.parametrize("piece", ["-", " ", "ab", "\n"])
def test_a_piece_is_looked_at_once_however_much_text_is_held_back(
    monkeypatch: pytest.MonkeyPatch, final: TextFinal, piece: str
) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(TextStart, "_extend", lambda _, more: looked_at.append(more))
    flow = Transcript().flow(final)
    flow.begin_block()
    for _ in range(500):
        flow.add(piece)
    assert sum(map(len, looked_at)) <= 500 * len(piece)
    assert flow.rest() == ("" if final is TextFinal.AT_ONCE else piece * 500)


@pytest.mark.parametrize(
    "text", ["", " " * 40, "fifteen letters", "-" * 90, "| a |" * 9, "\n" * 20]
)
def test_a_short_text_or_a_ruler_is_not_final(text: str) -> None:
    assert not has_final_start(text)
    assert has_final_start(text + SENTENCE)


def test_the_producer_decides_when_text_is_final() -> None:
    structured = {"output_config": {"format": {"type": "json_schema"}}}
    assert text_final({}, "continue") is TextFinal.AFTER_START
    assert text_final({"output_config": {"effort": "low"}}, "continue") is TextFinal.AFTER_START
    assert text_final({}, "restart") is TextFinal.AT_END
    assert text_final(structured, "continue") is TextFinal.AT_END
    assert text_final(structured, "fail") is TextFinal.AT_ONCE
    assert TextFinal.of("a newer one") is TextFinal.AFTER_START


def published(parts: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    """Return the events of an attempt: blocks of a kind, each with its pieces."""
    events = [START]
    for index, (kind, some) in enumerate(parts):
        events.append(block(index, kind))
        events += [delta(piece, index) for piece in some if kind == "text"]
    return events


@given(
    st.lists(st.tuples(st.sampled_from(["text", "text", "tool_use"]), pieces), max_size=4),
    texts,
    st.sampled_from([OnInterrupt.CONTINUE, OnInterrupt.RESTART]),
    st.booleans(),
)
def test_no_plan_of_a_worker_withdraws_what_a_reader_was_given(
    parts: list[tuple[str, list[str]]], rest: str, on_interrupt: OnInterrupt, prefill: bool
) -> None:
    """Whatever was published before the interruption, in whichever blocks."""
    message, events = PartialMessage(), published(parts)
    for data in events:
        message.apply(data)
    plan = plan_attempt(message, BODY, on_interrupt, prefill=prefill)
    further: list[dict[str, Any]] = [{"type": ATTEMPT, "mode": plan.mode}]
    if plan.rewind:
        further.append({"type": REWIND, "index": plan.rewind[0], "offset": plan.rewind[1]})
    kept = "" if plan.mode in (Mode.START, Mode.RESTART) else message.text
    if plan.rewind and kept:
        message.apply(further[-1])
        kept = message.text
    if plan.continues is None:
        further.append(block(plan.first_index))
    further.append(delta(rest, plan.first_index if plan.continues is None else plan.continues))
    end = {"type": END, "state": "done"}
    given_pieces = shown([*events, *further, end], text_final(BODY, on_interrupt))
    assert "".join(given_pieces) == kept + rest


def test_the_first_words_are_held_back_and_then_given_at_once() -> None:
    first = shown([START, block(0), delta("A pen"), delta("stock "), delta("carries")])
    assert first[3:] == ["", "", "A penstock carries"]
    assert shown([START, block(0), delta("Yes."), {"type": END, "state": "done"}])[-1] == "Yes."


def test_a_reader_resumes_before_the_text_that_is_held_back() -> None:
    transcript = Transcript()
    flow = transcript.flow(None)
    cursors = []
    for n, data in enumerate(
        [START, block(0), delta("Short"), delta(" still"), delta(SENTENCE)], 1
    ):
        transcript.read(Event(1, n, data), flow)
        cursors.append(transcript.resume_cursor.n)
    assert cursors == [1, 2, 2, 2, 5]


def test_text_that_redis_lost_is_withdrawn_only_if_other_text_follows() -> None:
    flow = Transcript().flow("at_once")
    assert flow.add(SENTENCE) == SENTENCE
    assert flow.reset("A pen") == ""
    assert flow.add("stock carries water. More") == " More"
    assert flow.reset("") == ""
    with pytest.raises(TextRewound):
        flow.add("Other")
