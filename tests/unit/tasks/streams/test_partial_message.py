"""PartialMessage: what has been published, from the events alone."""

from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import events
from penstock.streams.message_builder import MessageBuilder
from tasks.api.message_stream import StreamInterrupted
from tasks.streams.attempt import Attempt
from tasks.streams.continuation import AttemptPlan, Mode
from tasks.streams.partial_message import PartialMessage
from tasks.streams.usage import Usage

START: dict[str, Any] = {"type": "message_start", "message": {"content": []}}


def block(index: int, kind: str = "text", text: Any = "") -> dict[str, Any]:
    content = {"type": kind, "text": text} if kind == "text" else {"type": kind}
    return {"type": "content_block_start", "index": index, "content_block": content}


def piece(index: int, text: Any) -> dict[str, Any]:
    delta = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def rewind(index: int, offset: int = 0) -> dict[str, Any]:
    return {"type": events.REWIND, "index": index, "offset": offset}


def answer(*happened: dict[str, Any]) -> PartialMessage:
    found = PartialMessage()
    for event in happened:
        found.apply(event)
    return found


def test_the_visible_text_is_that_of_all_text_blocks() -> None:
    found = answer(
        START,
        block(0, text="In"),
        piece(0, "flow"),
        stop(0),
        block(1, "tool_use"),
        stop(1),
        block(2),
        piece(2, "."),
    )
    assert found.text == "Inflow."
    assert found.text_sha256 == sha256(b"Inflow.").hexdigest()
    assert [each.open for each in found.blocks.values()] == [False, False, True]


NAMED: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}
UNNAMED: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": None}}
OVER: dict[str, Any] = {"type": "message_stop"}


@pytest.mark.parametrize(
    ("ending", "complete"),
    [
        ([], False),
        ([OVER], False),
        ([UNNAMED], False),
        ([UNNAMED, OVER], False),
        ([NAMED], True),
        ([NAMED, OVER], True),
        ([NAMED, UNNAMED, OVER], True),
    ],
)
def test_a_message_is_complete_with_a_stop_reason_after_its_last_block(
    ending: list[dict[str, Any]], complete: bool
) -> None:
    assert answer(START, block(0), stop(0), *ending).complete is complete


@pytest.mark.parametrize("kind", ["text", "tool_use", "thinking"])
def test_a_stop_reason_does_not_complete_a_message_with_an_open_block(kind: str) -> None:
    found = answer(START, block(0), stop(0), block(1, kind), NAMED)
    assert not found.complete
    found.apply(stop(1))
    assert found.complete


def test_a_rewind_also_discards_the_end_of_the_message() -> None:
    ended: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "x"}}
    found = answer(START, block(0), stop(0), ended, {"type": "message_stop"}, rewind(0))
    assert (found.complete, found.stop_reason, found.started) == (False, None, True)


def test_events_of_unknown_types_change_nothing() -> None:
    found = answer(START, {"type": "ping"}, {"type": "new"}, {}, {"type": events.QUEUED})
    assert (found.text, found.blocks, found.started) == ("", {}, True)


def test_the_last_text_block_is_the_last_that_is_not_white_space() -> None:
    found = answer(START, block(0), piece(0, "a"), stop(0), block(1), piece(1, " \n"), stop(1))
    assert found.last_text_block() == 0
    assert answer(START, block(0, "thinking")).last_text_block() is None


@pytest.mark.parametrize(
    "malformed",
    [
        pytest.param(block(2), id="a missing block"),
        pytest.param(block(-1), id="a negative index"),
        pytest.param({**block(1), "index": "1"}, id="an index that is not a number"),
        pytest.param({**block(1), "index": None}, id="no index"),
        pytest.param(block(1, text=5), id="a block whose text is a number"),
        pytest.param(piece(1, "a"), id="a delta before its block"),
        pytest.param(piece(0, None), id="a delta without text"),
        pytest.param(piece(0, 5), id="a delta whose text is a number"),
    ],
)
def test_a_malformed_event_interrupts_the_stream_and_leaves_the_message_unchanged(
    malformed: dict[str, Any],
) -> None:
    message = answer(START, block(0), piece(0, "a"))
    attempt = Attempt(AttemptPlan(Mode.START, {}), message, Usage())
    with pytest.raises(StreamInterrupted) as interruption:
        attempt.feed(orjson.dumps(malformed))
    assert interruption.value.retryable
    assert (message.text, message.blocks.end) == ("a", 1)


@pytest.mark.parametrize("index", ["0", None, 0.0, 1, -1])
def test_the_first_block_has_the_index_zero(index: Any) -> None:
    attempt = Attempt(AttemptPlan(Mode.START, {}), PartialMessage(), Usage())
    attempt.feed(orjson.dumps(START))
    with pytest.raises(StreamInterrupted, match=r"content_block_start\.index"):
        attempt.feed(orjson.dumps({**block(0), "index": index}))


@given(
    st.lists(
        st.sampled_from(
            [
                START,
                block(0),
                piece(0, "a"),
                piece(0, None),
                piece(1, 5),
                {**piece(0, "a"), "index": [0]},
                {**piece(0, "a"), "delta": "a"},
                {**block(0), "content_block": None},
                {**block(1), "content_block": {"type": [], "text": 7}},
                {**block(0), "index": None},
                {"type": "content_block_stop"},
                stop(3),
                {"type": "message_delta", "delta": "x"},
                {"type": "message_delta", "delta": {"stop_reason": {}, "stop_details": "no"}},
                {"type": ["message_stop"]},
                {"type": "penstock.unreadable", "text": "half an event"},
            ]
        ),
        max_size=12,
    )
)
def test_odd_events_of_a_log_change_nothing_and_readers_have_the_same_text(
    happened: list[dict[str, Any]],
) -> None:
    builder = MessageBuilder()
    builder.apply(START)
    found = answer(START, *happened)
    for event in happened:
        builder.apply(event)
    if happened.count(START) == 0:  # a second start discards what readers have
        assert builder.text == found.text
    assert found.stop_reason is None


texts = st.lists(st.text("ab \n日", min_size=1, max_size=4), min_size=1, max_size=5)


@given(st.lists(texts, min_size=1, max_size=4), st.data())
def test_a_rewind_leaves_the_worker_with_the_same_text_as_readers(
    blocks: list[list[str]], data: st.DataObject
) -> None:
    happened: list[dict[str, Any]] = [START]
    for index, each in enumerate(blocks):
        happened += [block(index), *(piece(index, text) for text in each), stop(index)]
    index = data.draw(st.integers(0, len(blocks) - 1))
    happened.append(rewind(index, data.draw(st.integers(0, len("".join(blocks[index]))))))
    builder = MessageBuilder()
    for event in happened:
        builder.apply(event)
    found = answer(*happened)
    assert [each.text for each in found.blocks.values()] == [
        each["text"] for each in builder.content
    ]


#: How a text continues: in its own block, in a further one, or after a tool call.
shapes = st.lists(st.sampled_from(["more", "block", "tool"]), max_size=12)


@given(shapes, st.data())
def test_a_trimmed_log_and_the_visible_text_are_enough_to_resume(
    shape: list[str], data: st.DataObject
) -> None:
    happened, index, number = [START, block(0), piece(0, "w0 ")], 0, 0
    for step in shape:
        number += 1
        if step == "more":
            happened.append(piece(index, f"w{number} "))
            continue
        happened.append(stop(index))
        if step == "tool":
            index += 1
            happened += [block(index, "tool_use"), stop(index)]
        index += 1
        happened += [block(index), piece(index, f"w{number} ")]
    whole = answer(*happened)
    rest = happened[data.draw(st.integers(1, len(happened) - 1)) :]
    found = PartialMessage()
    found.restore(whole.text, rest)
    for event in rest:
        found.apply(event)
    assert found.text == whole.text
    assert len(found.blocks) == len(whole.blocks)
    assert found.last_text_block() == whole.last_text_block()
    last = whole.blocks.end - 1
    assert found.blocks[last].open == whole.blocks[last].open


def test_a_trimmed_log_that_begins_with_a_rewind_is_enough_to_resume() -> None:
    rest = [rewind(0), block(0), piece(0, "again")]
    found = PartialMessage()
    found.restore("again", rest)
    for event in rest:
        found.apply(event)
    assert (found.text, len(found.blocks)) == ("again", 1)


def test_a_trimmed_log_with_rewound_text_is_enough_to_resume() -> None:
    rest = [piece(0, "one "), stop(0), block(1), piece(1, " "), rewind(1), block(1), piece(1, "b")]
    found = PartialMessage()
    found.restore("the one b", rest)
    for event in rest:
        found.apply(event)
    assert (found.text, len(found.blocks)) == ("the one b", 2)


@pytest.mark.parametrize(
    ("rest", "blocks"),
    [
        ([rewind(1), block(1), piece(1, "b")], [("the one ", False), ("b", True)]),
        ([rewind(1), piece(0, "b")], [("the one b", True)]),
        ([rewind(1), piece(0, "b"), stop(0)], [("the one b", False)]),
        ([rewind(2), block(2), piece(2, "b")], [("", False), ("the one ", False), ("b", True)]),
    ],
)
def test_a_trimmed_log_that_begins_with_a_later_rewind_keeps_the_text_before_it(
    rest: list[dict[str, Any]], blocks: list[tuple[str, bool]]
) -> None:
    found = PartialMessage()
    found.restore("the one b", rest)
    for event in rest:
        found.apply(event)
    assert [(each.text, each.open) for each in found.blocks.values()] == blocks
