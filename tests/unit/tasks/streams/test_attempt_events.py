"""Single events of an attempt: where a text is joined, in odd forms, and errors in the stream."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.streams.message_builder import MessageBuilder
from tasks.api.message_stream import StreamInterrupted
from tasks.streams.attempt import Attempt
from tasks.streams.continuation import Mode, OnInterrupt, plan_attempt
from tasks.streams.partial_message import PartialMessage
from tasks.streams.usage import Usage
from tests.unit.tasks.streams.scripted_model import (
    BODY,
    Blocks,
    Event,
    Published,
    check_coherent,
    delta,
    text_of,
    wire,
)
from tests.unit.tasks.streams.test_overlap_repeats import new_part

SAID = "The gate of the dam is open. "
CITATION = {"type": "char_location", "cited_text": "open"}
TOOL = {"type": "tool_use", "id": "t", "name": "look", "input": {"n": 1}}


def start(index: int, text: str = "", kind: str = "text") -> Event:
    return {"type": "content_block_start", "index": index, "content_block": _block(kind, text)}


def _block(kind: str, text: str) -> dict[str, Any]:
    return {"type": "text", "text": text} if kind == "text" else {**TOOL, "input": {}}


def piece(text: str, index: int = 0) -> Event:
    return delta(index, "text_delta", "text", text)


def citation(index: int = 0) -> Event:
    cited = {"type": "citations_delta", "citation": CITATION}
    return {"type": "content_block_delta", "index": index, "delta": cited}


def stop(index: int = 0) -> Event:
    return {"type": "content_block_stop", "index": index}


class Resumed:
    """An answer that was interrupted after `SAID`, and the attempt that continues it."""

    def __init__(self, *, is_open: bool, prefill: bool = False) -> None:
        self.message = PartialMessage()
        first = [{"type": "message_start", "message": {}}, start(0), piece(SAID)]
        for event in first if is_open else [*first, stop()]:
            self.message.apply(event)
        planned = plan_attempt(self.message, BODY, OnInterrupt.CONTINUE, prefill=prefill)
        assert planned.mode is (Mode.PREFILL if prefill else Mode.USER_TURN)
        self.attempt = Attempt(planned, self.message, Usage({"input_tokens": 1}))

    def feed(self, *events: Event) -> list[Event]:
        """What readers get of these events."""
        fitted = [each for event in events for each in self.attempt.feed(orjson.dumps(event))]
        assert [orjson.loads(line) for line, _ in fitted] == [data for _, data in fitted]
        return [data for _, data in fitted]


def test_text_that_is_still_held_back_is_published_when_its_block_stops() -> None:
    resumed = Resumed(is_open=True)
    assert resumed.feed(start(0), piece("The gate")) == []
    assert resumed.feed(stop()) == [piece("The gate"), stop()]
    assert resumed.message.text == SAID + "The gate"


def test_text_that_is_still_held_back_is_published_in_a_block_of_its_own() -> None:
    resumed = Resumed(is_open=False)
    assert resumed.feed(start(0), piece("The gate")) == []
    assert resumed.feed(stop()) == [start(1), piece("The gate", 1), stop(1)]


@pytest.mark.parametrize("is_open", [True, False])
def test_text_that_comes_with_the_start_of_its_block_is_published(is_open: bool) -> None:
    """The API sends none there, but others who speak its protocol do."""
    resumed = Resumed(is_open=is_open)
    shown = resumed.feed(start(0, "It lets "), piece("water out."), stop())
    index = 0 if is_open else 1
    pieces = [piece("It lets ", index), piece("water out.", index), stop(index)]
    assert shown == ([] if is_open else [start(1)]) + pieces
    assert resumed.message.text == SAID + "It lets water out."


@pytest.mark.parametrize("is_open", [True, False])
def test_a_repetition_that_comes_with_the_start_of_its_block_is_removed(is_open: bool) -> None:
    resumed = Resumed(is_open=is_open)
    resumed.feed(start(0, SAID[-20:]), piece("It lets water out."), stop())
    assert resumed.message.text == SAID + "It lets water out."


def test_text_at_the_start_of_a_later_block_is_published_as_it_came() -> None:
    resumed = Resumed(is_open=True)
    later = start(1, SAID)
    shown = resumed.feed(start(0), piece("New."), stop(), later, piece(SAID, 1), stop(1))
    assert shown == [piece("New."), stop(), later, piece(SAID, 1), stop(1)]


def test_only_the_first_text_of_an_attempt_is_compared_with_the_text_before_it() -> None:
    resumed = Resumed(is_open=False)
    events = [start(0), piece("New."), stop(), start(1), piece("The gate", 1)]
    shown = resumed.feed(*events)
    assert shown == [start(1), piece("New.", 1), stop(1), start(2), piece("The gate", 2)]


def test_a_citation_of_continued_text_is_published_for_the_block_that_readers_have() -> None:
    resumed = Resumed(is_open=True)
    shown = resumed.feed(start(0), piece("It is wide."), citation(), stop())
    assert shown == [piece("It is wide."), citation(), stop()]
    resumed = Resumed(is_open=False)
    shown = resumed.feed(start(0), piece("It is wide."), citation(), stop())
    assert shown == [start(1), piece("It is wide.", 1), citation(1), stop(1)]


def test_a_citation_of_text_that_is_only_a_repetition_is_not_published() -> None:
    resumed = Resumed(is_open=False)
    assert resumed.feed(start(0), piece(SAID), citation(), stop()) == []


def test_a_tool_call_closes_the_text_block_that_was_to_be_continued() -> None:
    resumed = Resumed(is_open=True)
    tool = start(0, kind="tool_use")
    arguments = delta(0, "input_json_delta", "partial_json", "{}")
    assert resumed.feed(tool, arguments, stop()) == [
        stop(),
        {**tool, "index": 1},
        {**arguments, "index": 1},
        stop(1),
    ]


def test_a_tool_call_after_a_repetition_gets_the_next_index() -> None:
    for is_open in (True, False):
        resumed = Resumed(is_open=is_open)
        tool = start(1, kind="tool_use")
        shown = resumed.feed(start(0), piece(SAID[-20:]), stop(), tool, stop(1))
        assert shown == ([stop()] if is_open else []) + [tool, stop(1)]


def test_thinking_after_the_first_text_of_an_attempt_is_part_of_the_answer() -> None:
    resumed = Resumed(is_open=True)
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    thought = {"type": "content_block_start", "index": 1, "content_block": thinking}
    shown = resumed.feed(start(0), piece("New."), stop(), thought, stop(1))
    assert shown == [piece("New."), stop(), thought, stop(1)]


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking"])
def test_thinking_before_the_first_text_of_an_attempt_is_left_out(kind: str) -> None:
    resumed = Resumed(is_open=True)
    thought = {"type": "content_block_start", "index": 0, "content_block": {"type": kind}}
    pondered = delta(0, "thinking_delta", "thinking", "Where was I?")
    assert resumed.feed(thought, pondered, stop(), start(1), piece("New.", 1)) == [piece("New.")]


def test_an_answer_that_ends_without_a_continuation_closes_its_open_block() -> None:
    resumed = Resumed(is_open=True)
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}
    shown = resumed.feed({"type": "message_start", "message": {}}, end)
    assert shown == [stop(), {**end, "usage": {"input_tokens": 1}}]


def test_usage_is_reported_once_for_each_event_that_has_some() -> None:
    usage = Usage()
    attempt = Attempt(
        plan_attempt(PartialMessage(), BODY, OnInterrupt.CONTINUE, prefill=True),
        PartialMessage(),
        usage,
    )
    for kind, data in (
        ("message_start", {"message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}),
        ("message_delta", {"delta": {}, "usage": {"output_tokens": 9}}),
    ):
        assert not attempt.usage_changed
        attempt.feed(orjson.dumps({"type": kind, **data}))
        assert attempt.usage_changed
        attempt.usage_changed = False
    assert usage.total == {"input_tokens": 3, "output_tokens": 9}
    attempt.feed(orjson.dumps(start(0)))
    assert not attempt.usage_changed


@pytest.mark.parametrize(
    ("error", "expected", "retryable"),
    [
        (
            {"message": "Words."},
            {"type": "api_error", "message": "Words."},
            True,
        ),
        (
            {"type": "overloaded_error"},
            {"type": "overloaded_error", "message": "no message"},
            True,
        ),
        ("upstream expired", {"type": "api_error", "message": "upstream expired"}, True),
        ({"type": "expired"}, {"type": "expired", "message": "no message"}, False),
    ],
    ids=["untyped", "without a message", "a gateway's text", "of another type"],
)
def test_an_error_event_of_any_form_interrupts_the_stream(
    error: Any, expected: dict[str, str], retryable: bool
) -> None:
    with pytest.raises(StreamInterrupted) as interruption:
        Resumed(is_open=True).feed({"type": "error", "error": error})
    assert interruption.value.error == expected
    assert interruption.value.retryable is retryable


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "content_block_delta", "index": 0},
        {"type": "content_block_delta", "index": 0, "delta": None},
        {"type": "content_block_start", "index": 0},
        {"type": "content_block_stop"},
        {"type": "message_start"},
    ],
)
def test_an_event_of_unexpected_form_interrupts_the_stream(odd: Event) -> None:
    resumed = Resumed(is_open=True)
    resumed.feed(start(0), piece("New."))
    with pytest.raises(StreamInterrupted, match=f"invalid event: {odd['type']}") as interruption:
        resumed.feed(odd)
    assert interruption.value.error["type"] == "invalid_response"
    assert interruption.value.retryable


def test_a_ping_and_the_stop_of_an_unknown_block_are_not_published() -> None:
    resumed = Resumed(is_open=True)
    assert resumed.feed({"type": "ping"}, stop(7)) == []
    assert resumed.message.text == SAID


def test_a_delta_of_an_unknown_block_interrupts_the_stream() -> None:
    with pytest.raises(StreamInterrupted, match=r"content_block_delta\.index is 7"):
        Resumed(is_open=True).feed(piece("x", 7))


words = st.lists(st.sampled_from(["the ", "gate ", "is ", "open ", "日本 "]), max_size=12)
texts = st.builds(
    lambda said, cited: {"type": "text", "text": "".join(said), **cited},
    words.filter(bool),
    st.sampled_from([{}, {}, {"citations": [CITATION]}]),
)
blocks = st.lists(texts | texts | st.just(TOOL), min_size=1, max_size=5)


def publish(published: Published, prefill: bool, sent: list[Event]) -> Mode:
    planned = plan_attempt(published.answer, BODY, OnInterrupt.CONTINUE, prefill=prefill)
    if planned.rewind:
        index, offset = planned.rewind
        rewind = {"type": "penstock.rewind", "index": index, "offset": offset}
        published.append(rewind)
        published.answer.apply(rewind)
    published.usage.next_attempt()
    attempt = Attempt(planned, published.answer, published.usage)
    for event in sent:
        for _, data in attempt.feed(orjson.dumps(event)):
            published.append(data)
    return planned.mode


@settings(max_examples=300, deadline=None)
@given(
    blocks, blocks, st.integers(1, 40), st.integers(1, 9), st.sampled_from([0, 2, 9]), st.booleans()
)
def test_two_attempts_with_any_blocks_make_one_coherent_message(
    first: Blocks, second: Blocks, cut: int, size: int, at_start: int, overlap: bool
) -> None:
    """Words repeat, texts follow each other, and what is written may have nothing in common."""
    published = Published()
    sent = wire(first, size, at_start)
    publish(published, False, sent[: min(cut, len(sent) - 2)])
    mode_before = plan_attempt(published.answer, BODY, OnInterrupt.CONTINUE, prefill=False)
    said = published.answer.text
    if overlap and second[0]["type"] == "text":
        second = [{**second[0], "text": said[-20:] + second[0]["text"]}, *second[1:]]
    mode = publish(published, False, wire(second, size, at_start))
    assert mode is mode_before.mode
    written = text_of(second)
    if mode is Mode.USER_TURN and second[0]["type"] == "text":
        own = second[0]["text"]
        written = said + new_part(said, own) + written[len(own) :]
    elif mode is Mode.USER_TURN:
        written = said + written
    check_coherent(published.events)
    assert published.answer.text == written
    builder = MessageBuilder()
    for event in published.events:
        builder.apply(event)
    assert builder.text == written
    tools = [block for block in builder.content if block["type"] == "tool_use"]
    assert tools[len(tools) - second.count(TOOL) :] == second.count(TOOL) * [TOOL]


def test_the_usage_of_many_events_together_is_limited_as_that_of_one() -> None:
    message, usage = PartialMessage(), Usage()
    plan = plan_attempt(message, BODY, OnInterrupt.CONTINUE, prefill=False)
    attempt = Attempt(plan, message, usage)
    attempt.feed(b'{"type": "message_start", "message": {}}')
    fields = [{f"field {n}": "x" * 1_000} for n in range(17)]
    ends = [orjson.dumps({"type": "message_delta", "delta": {}, "usage": each}) for each in fields]
    assert all(attempt.feed(end) for end in ends[:15])
    with pytest.raises(StreamInterrupted, match="the usage has more than 16 KB"):
        _ = [attempt.feed(end) for end in ends[15:]]
