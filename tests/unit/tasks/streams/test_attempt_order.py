"""The order of events: what cannot follow what, and that nothing at a seam is lost or too early."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.events import Event as Delivered
from penstock.streams.transcript import Transcript
from tasks.api.message_stream import StreamInterrupted
from tasks.streams.attempt import Attempt
from tasks.streams.continuation import AttemptPlan, Mode, OnInterrupt, plan_attempt
from tasks.streams.partial_message import PartialMessage
from tasks.streams.publish.outbox import Outbox
from tasks.streams.usage import Usage
from tests.unit.tasks.streams.publish.outbox_calls import DEPLOYMENT, ID, next_write
from tests.unit.tasks.streams.scripted_model import BODY, Event, delta
from tests.unit.tasks.streams.test_attempt_events import (
    SAID,
    TOOL,
    Resumed,
    citation,
    piece,
    start,
    stop,
)

BEGIN: Event = {"type": "message_start", "message": {"usage": {"input_tokens": 1}}}
ENDING: list[Event] = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
    {"type": "message_stop"},
]


class First:
    """The first attempt of an answer, whose events are published as they come."""

    def __init__(self) -> None:
        self.message = PartialMessage()
        self.attempt = Attempt(AttemptPlan(Mode.START, {}), self.message, Usage())

    def feed(self, *events: Event) -> list[Event]:
        fitted = [each for event in events for each in self.attempt.feed(orjson.dumps(event))]
        return [data for _, data in fitted]


@pytest.mark.parametrize(
    "events",
    [
        [start(0)],
        [piece("a")],
        [ENDING[0]],
        [ENDING[1]],
        [BEGIN, piece("a")],
        [BEGIN, start(1)],
        [BEGIN, start(0), start(0)],
        [BEGIN, start(0), stop(), start(2)],
        [BEGIN, start(0), piece("a", 1)],
        [BEGIN, start(0), piece("a"), stop(), ENDING[1]],
        [BEGIN, start(0), piece("a"), stop(), start(1), piece("b", 1), piece("c", 0)],
    ],
)
def test_an_event_that_cannot_come_here_interrupts_the_stream(events: list[Event]) -> None:
    first = First()
    assert first.feed(*events[:-1]) == events[:-1]
    with pytest.raises(StreamInterrupted) as interruption:
        first.feed(events[-1])
    assert interruption.value.error["type"] == "invalid_response"
    assert events[-1]["type"] in interruption.value.error["message"]


def test_a_second_start_a_stray_stop_and_all_after_the_end_are_ignored() -> None:
    first, later = First(), {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 9}}
    again = {**BEGIN, "message": {"usage": {"input_tokens": 5}}}
    shown = first.feed(stop(), BEGIN, again, start(0), piece("a"), stop(3), stop(), stop(), *ENDING)
    assert shown == [BEGIN, start(0), piece("a"), stop(), *ENDING]
    assert first.feed(later, start(1), {"type": "new"}) == []
    assert first.attempt.feed(b"[DONE]") == []


def test_deltas_of_open_blocks_may_alternate_if_the_text_is_in_order() -> None:
    thought = {"type": "thinking", "thinking": ""}
    thinking = {"type": "content_block_start", "index": 0, "content_block": thought}
    events = [BEGIN, thinking, start(1), piece("a", 1), delta(0, "thinking_delta", "thinking", "x")]
    assert First().feed(*events) == events


def test_a_missing_block_of_a_later_attempt_is_noticed() -> None:
    resumed = Resumed(is_open=False)
    resumed.feed(start(0), piece("It lets water out."), stop())
    with pytest.raises(StreamInterrupted, match="index is 2, but 1 is next"):
        resumed.feed(start(2))


@pytest.mark.parametrize("ending", [start(1, kind="tool_use"), ENDING[0]])
@pytest.mark.parametrize("is_open", [True, False])
def test_text_held_back_is_published_if_its_block_is_never_stopped(
    is_open: bool, ending: Event
) -> None:
    resumed = Resumed(is_open=is_open)
    assert resumed.feed(start(0), piece("The gate")) == []
    shown = resumed.feed(ending)
    assert piece("The gate", 0 if is_open else 1) in shown
    assert resumed.message.text == SAID + "The gate"


@pytest.mark.parametrize("is_open", [True, False])
def test_citations_wait_for_the_text_before_them(is_open: bool) -> None:
    resumed, index = Resumed(is_open=is_open), 0 if is_open else 1
    assert resumed.feed(start(0), piece("The gate"), citation(), citation()) == []
    shown = resumed.feed(piece(" is new."))
    begin = [] if is_open else [start(1)]
    cited = [citation(index), citation(index)]
    assert shown == [*begin, piece("The gate is new.", index), *cited]
    assert resumed.feed(citation(), stop()) == [citation(index), stop(index)]


def test_citations_at_the_start_of_a_continued_block_are_kept() -> None:
    resumed = Resumed(is_open=True)
    begin = start(0)
    begin["content_block"]["citations"] = [citation()["delta"]["citation"]]
    assert resumed.feed(begin, piece("It is new."), stop()) == [
        piece("It is new."),
        citation(),
        stop(),
    ]


def test_a_new_field_of_a_text_delta_is_kept_once_the_text_is_new() -> None:
    resumed = Resumed(is_open=False)
    resumed.feed(start(0), piece("It is new."))
    newer = delta(0, "text_delta", "text", " And more.")
    newer["delta"]["field"] = 1
    assert resumed.feed(newer) == [{**newer, "index": 1}]


def test_a_resumed_attempt_joins_characters_cut_in_two() -> None:
    resumed = Resumed(is_open=True)
    halves = [b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}']
    resumed.feed(start(0), piece("It is new: "))
    shown = [
        each
        for half in (b"\\ud83d", b"\\ude00!")
        for each in resumed.attempt.feed(halves[0] % half)
    ]
    assert "".join(data["delta"]["text"] for _, data in shown) == "\N{GRINNING FACE}!"
    assert all(orjson.loads(line) == data for line, data in shown)


words = st.lists(st.sampled_from(["the ", "gate ", "is ", "open ", "🚰 ", "null "]), max_size=10)
texts = st.builds("".join, words)
kinds = st.sampled_from(["text", "text", "text", "thinking", "tool_use", "hologram"])


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """An answer whose texts begin in the start of their blocks, with any deltas in any block."""
    events = [BEGIN]
    for index, kind in enumerate(draw(st.lists(kinds, max_size=5))):
        block: dict[str, Any] = {"type": kind}
        if draw(st.booleans()):
            block["text"] = draw(texts)
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        for _ in range(draw(st.integers(0, 4))):
            odd = [delta(index, "input_json_delta", "partial_json", "{}"), citation(index)]
            more = piece(draw(texts), index)
            newer = {**more, "delta": {**more["delta"], "new": 1}}
            events.append(draw(st.sampled_from([more, more, newer, *odd, {"type": "ping"}])))
        events += draw(st.sampled_from([[stop(index)], [stop(index)], []]))
    return [*events, *ENDING]


@settings(max_examples=300, deadline=None)
@given(answers(), answers(), st.integers(0, 30), st.booleans(), st.integers(1, 4))
def test_the_text_key_the_checksum_and_every_reader_have_the_same_text(
    first: list[Event], second: list[Event], cut: int, prefill: bool, merged: int
) -> None:
    message, usage, published = PartialMessage(), Usage(), list[Event]()
    box = Outbox(DEPLOYMENT, ID, worker="w", epoch=1, n=0, ttl_s=60, retention_s=60)
    stored = ""
    for sent in (first[: min(cut, len(first) - 2)], second):
        planned = plan_attempt(message, BODY, OnInterrupt.CONTINUE, prefill=prefill)
        if planned.rewind:
            index, offset = planned.rewind
            rewind = {"type": "penstock.rewind", "index": index, "offset": offset}
            message.apply(rewind)
            box.rewind(index, offset, left=message.text)
        usage.next_attempt()
        attempt = Attempt(planned, message, usage)
        for place, event in enumerate(sent):
            for line, data in attempt.feed(orjson.dumps(event)):
                box.add(line, data)
            if place % merged == 0 and box.next_call() is not None:
                stored = _acknowledge(box, stored, published)
    while box.next_call() is not None:
        stored = _acknowledge(box, stored, published)
    transcript = Transcript()
    flow = transcript.flow()
    shown = ""
    for n, data in enumerate(published, 1):
        if data["type"] == "penstock.rewind":
            transcript.apply(Delivered(1, n, data))
            shown, flow = transcript.builder.text, transcript.flow()
        else:
            shown += transcript.read(Delivered(1, n, data), flow)
    assert message.stopped
    assert stored == message.text == transcript.builder.text == shown


def _acknowledge(box: Outbox, stored: str, published: list[Event]) -> str:
    """Apply the outstanding call as Redis does; returns the text that is stored then."""
    write = next_write(box)
    published += write.data
    box.apply_reply([b"ok", write.first + len(write.lines) - 1, b""])
    return write.text if write.fresh else stored + write.text


def test_an_answer_with_tools_only_has_no_text() -> None:
    first = First()
    tool = {"type": "content_block_start", "index": 0, "content_block": {**TOOL, "text": "x"}}
    first.feed(BEGIN, tool, piece("hidden"), stop(), *ENDING)
    assert (first.message.text, first.message.complete) == ("", True)
