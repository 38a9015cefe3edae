"""Attempts joined into one message: wherever they are interrupted, readers get the uncut answer.

A scripted model stands in for the API. It is cut after any event, and continues in the ways that
models do: exactly, with a repetition, from the start again, or after more thinking.
"""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.streams.message_builder import MessageBuilder
from tasks.api.message_stream import StreamInterrupted
from tasks.streams.attempt import Attempt, missing_end
from tasks.streams.continuation import Mode, OnInterrupt, plan_attempt
from tasks.streams.partial_message import PartialMessage
from tasks.streams.usage import Usage
from tests.unit.tasks.streams.scripted_model import (
    BODY,
    MANNERS,
    Blocks,
    Course,
    Published,
    check_coherent,
    make_call,
    text_of,
    wire,
)

between = st.sampled_from([" ", "\n", " \n", ", ", " 日本 "])


@st.composite
def answers(draw: st.DrawFn) -> Blocks:
    """Thinking, then texts and tool calls. No word occurs twice, and no text follows a text: a
    reader could not distinguish the second from a continuation of the first."""
    numbers = iter(draw(st.lists(st.integers(0, 10**6), min_size=24, max_size=24, unique=True)))
    found: Blocks = []
    if draw(st.booleans()):
        found.append({"type": "thinking", "thinking": "Let me see.", "signature": "sig"})
    for place, kind in enumerate(draw(st.lists(st.sampled_from("tu"), min_size=1, max_size=4))):
        if kind == "u" or (found and found[-1]["type"] == "text"):
            tool = {"id": f"t{place}", "name": "look", "input": {"q": 'a "b"', "n": place}}
            found.append({"type": "tool_use", **tool})
        else:
            count = draw(st.integers(1, 6))
            text = "".join(f"w{next(numbers)}{draw(between)}" for _ in range(count))
            found.append({"type": "text", "text": text})
    return found


courses = st.lists(
    st.builds(
        Course,
        cut=st.integers(0, 60),
        manner=st.sampled_from(MANNERS),
        thinks=st.booleans(),
        piece=st.integers(1, 20),
        at_start=st.sampled_from([0, 0, 1, 7]),
        takeover=st.booleans(),
    ),
    max_size=3,
)


def run_attempts(answer: Blocks, interrupted: list[Course], last: Course, **how: Any) -> Published:
    published = Published()
    for course in [*interrupted, last]:
        complete = make_call(published, answer, course, **how)
        if course.takeover:
            published.hand_over()
        if complete:
            break
    assert published.answer.complete
    for _, data in missing_end(published.answer):
        published.append(data)
    return published


@settings(max_examples=400, deadline=None)
@given(answers(), courses, courses.filter(bool), st.booleans())
def test_up_to_four_attempts_make_one_message_equal_to_the_uncut_one(
    answer: Blocks, interrupted: list[Course], after: list[Course], prefill: bool
) -> None:
    last = replace(after[0], cut=None, takeover=False)
    published = run_attempts(
        answer, interrupted, last, prefill=prefill, on_interrupt=OnInterrupt.CONTINUE
    )
    check_coherent(published.events)
    builder = MessageBuilder()
    for event in published.events:
        builder.apply(event)
    assert builder.content == answer
    assert published.answer.text == text_of(answer)


@settings(max_examples=100, deadline=None)
@given(answers(), courses)
def test_a_restart_discards_everything_and_is_the_uncut_message(
    answer: Blocks, interrupted: list[Course]
) -> None:
    published = run_attempts(
        answer, interrupted, Course(), prefill=True, on_interrupt=OnInterrupt.RESTART
    )
    check_coherent(published.events)
    builder = MessageBuilder()
    for event in published.events:
        builder.apply(event)
    assert builder.content == answer
    assert set(published.modes) <= {Mode.START, Mode.RESTART}


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("manner", MANNERS)
def test_an_answer_cut_after_any_event_is_resumed_to_the_uncut_message(
    prefill: bool, manner: str
) -> None:
    answer: Blocks = [
        {"type": "thinking", "thinking": "Let me see.", "signature": "sig"},
        {"type": "text", "text": "I look at the first gauge and at the second one. "},
        {"type": "tool_use", "id": "t", "name": "open", "input": {"gate": 3}},
        {"type": "text", "text": "It stands at 12 metres."},
        {"type": "tool_use", "id": "u", "name": "open", "input": {"gate": 4}},
    ]
    whole = len(wire(answer, 5))
    for cut in range(whole):
        interrupted = [Course(cut=cut, piece=5)]
        published = run_attempts(
            answer,
            interrupted,
            Course(manner=manner),
            prefill=prefill,
            on_interrupt=OnInterrupt.CONTINUE,
        )
        check_coherent(published.events)
        builder = MessageBuilder()
        for event in published.events:
            builder.apply(event)
        assert builder.content == answer, f"cut after {cut} events"


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("on_interrupt", list(OnInterrupt))
def test_an_answer_that_lacks_only_message_stop_is_not_requested_again(
    on_interrupt: OnInterrupt, takeover: bool
) -> None:
    answer: Blocks = [
        {"type": "text", "text": "I look at the gauge of the dam."},
        {"type": "tool_use", "id": "t", "name": "look", "input": {"n": 1}},
    ]
    cut = Course(cut=len(wire(answer, 3)) - 1, takeover=takeover)
    published = run_attempts(answer, [cut], Course(), prefill=True, on_interrupt=on_interrupt)
    check_coherent(published.events)
    assert published.modes == [Mode.START]
    assert published.usage.total["output_tokens"] == 7


@given(answers(), courses)
def test_usage_adds_up_over_the_attempts(answer: Blocks, interrupted: list[Course]) -> None:
    published = run_attempts(
        answer, interrupted, Course(), prefill=False, on_interrupt=OnInterrupt.CONTINUE
    )
    begun = sum(1 for course in interrupted[: len(published.modes) - 1] if course.cut)
    last = [event for event in published.events if event["type"] == "message_delta"][-1]
    assert published.usage.total["input_tokens"] == 10 * (begun + 1)
    if begun:
        assert last["usage"] == published.usage.total


def test_a_single_attempt_passes_the_apis_bytes_unchanged() -> None:
    attempt = Attempt(
        plan_attempt(PartialMessage(), BODY, OnInterrupt.CONTINUE, prefill=True),
        PartialMessage(),
        Usage(),
    )
    odd = b'{ "type":"message_start",  "message":{"usage":{"input_tokens":1.0}}, "new":"field" }'
    assert [line for line, _ in attempt.feed(odd)] == [odd]


def test_thinking_about_how_to_continue_is_not_published() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "look", "input": {"n": 1}}
    answer: Blocks = [{"type": "text", "text": "The gate is open."}, tool]
    again = Course(thinks=True)
    for cut in range(3, 8):  # inside the text, after it, inside the tool call
        published = run_attempts(
            answer,
            [Course(cut=cut, piece=9)],
            again,
            prefill=False,
            on_interrupt=OnInterrupt.CONTINUE,
        )
        started = [
            e["content_block"] for e in published.events if e["type"] == "content_block_start"
        ]
        assert "thinking" not in {block["type"] for block in started}


def test_a_block_that_only_repeats_published_text_is_not_published() -> None:
    answer: Blocks = [
        {"type": "text", "text": "I look at the gauge of the dam."},
        {"type": "tool_use", "id": "t", "name": "look", "input": {"n": 1}},
    ]
    published = run_attempts(
        answer,
        [Course(cut=8, piece=60)],
        Course(manner="with overlap"),
        prefill=False,
        on_interrupt=OnInterrupt.CONTINUE,
    )
    started = [e["content_block"] for e in published.events if e["type"] == "content_block_start"]
    assert [block["type"] for block in started if block["type"] == "text"] == ["text"]


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b"null", b'{"no":"type"}', b'"text"'],
)
def test_invalid_event_data_interrupts_the_stream(raw: bytes) -> None:
    attempt = Attempt(
        plan_attempt(PartialMessage(), BODY, OnInterrupt.CONTINUE, prefill=True),
        PartialMessage(),
        Usage(),
    )
    with pytest.raises(StreamInterrupted) as interruption:
        attempt.feed(raw)
    assert interruption.value.retryable


@pytest.mark.parametrize(
    ("kind", "transient"),
    [
        ("overloaded_error", True),
        ("api_error", True),
        ("rate_limit_error", True),
        ("timeout_error", True),
        ("invalid_request_error", False),
        ("authentication_error", False),
        ("billing_error", False),
    ],
)
def test_the_type_of_an_error_event_decides_whether_the_stream_is_retryable(
    kind: str, transient: bool
) -> None:
    attempt = Attempt(
        plan_attempt(PartialMessage(), BODY, OnInterrupt.CONTINUE, prefill=True),
        PartialMessage(),
        Usage(),
    )
    event = {"type": "error", "error": {"type": kind, "message": "Words."}}
    with pytest.raises(StreamInterrupted) as interruption:
        attempt.feed(orjson.dumps(event))
    assert interruption.value.error == {"type": kind, "message": "Words."}
    assert interruption.value.retryable is transient
