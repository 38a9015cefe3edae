"""Outbox: which calls write a stream's events, and what Redis's replies mean."""

from typing import Any

import orjson
import pytest

from penstock import events
from tasks.streams.publish.outbox import EVENTS_PER_CALL_LIMIT
from tests.unit.tasks.streams.publish.outbox_calls import (
    DEPLOYMENT,
    KEYS,
    WriteArguments,
    add,
    delta,
    gap,
    next_write,
    ok,
    outbox,
    text,
)


def test_a_single_event_is_written_byte_for_byte_as_received() -> None:
    box = outbox()
    raw = (
        b'{"type": "content_block_delta","index":0, "delta":{"type":"text_delta","text":"\\u00e9"}}'
    )
    add(box, raw)
    assert next_write(box) == WriteArguments(
        worker="w",
        epoch=3,
        first=11,
        ttl=600,
        text="é",
        fresh=False,
        final="",
        keep="",
        lines=[events.wrap(3, 11, raw)],
        fields={},
    )


@pytest.mark.parametrize("typed", [False, True])
def test_bare_text_is_published_only_if_it_was_requested(typed: bool) -> None:
    box = outbox(typed=typed)
    add(box, text("a"))
    call = box.next_call()
    assert call is not None
    own = [KEYS.meta, KEYS.log, KEYS.lease, KEYS.events, KEYS.text, KEYS.request, DEPLOYMENT.live]
    assert call.keys == [*own, *([KEYS.typed] if typed else [])]


def test_the_length_of_the_log_is_limited_only_if_a_limit_is_set() -> None:
    for limit, keep in ((0, ""), (500, 500)):
        box = outbox(log_limit=limit)
        add(box, text("a"))
        assert next_write(box).keep == keep


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("text_delta", "text"),
        ("thinking_delta", "thinking"),
        ("input_json_delta", "partial_json"),
    ],
)
def test_adjacent_deltas_of_one_block_and_type_become_one_event(kind: str, field: str) -> None:
    box = outbox()
    for piece in ("a", "", "b\u2028", "日"):
        add(box, delta(2, kind, field, piece))
    assert next_write(box).data == [
        {"type": "content_block_delta", "index": 2, "delta": {"type": kind, field: "ab\u2028日"}}
    ]


@pytest.mark.parametrize(
    "between",
    [
        text("x", index=1),
        delta(0, "thinking_delta", "thinking", "x"),
        delta(0, "input_json_delta", "partial_json", "x"),
        delta(0, "signature_delta", "signature", "x"),
        b'{"type":"content_block_stop","index":0}',
        b'{"type":"ping"}',
        b'{"type":"brand_new","x":1}',
    ],
)
def test_only_adjacent_deltas_are_merged(between: bytes) -> None:
    box = outbox()
    for raw in (text("a"), text("b"), between, text("c"), text("d")):
        add(box, raw)
    ab, other, cd = next_write(box).data
    assert (ab["delta"]["text"], cd["delta"]["text"]) == ("ab", "cd")
    assert other == orjson.loads(between)


@pytest.mark.parametrize(
    ("kind", "field"), [("signature_delta", "signature"), ("citations_delta", "citation")]
)
def test_deltas_that_do_not_concatenate_are_never_merged(kind: str, field: str) -> None:
    box = outbox()
    add(box, delta(0, kind, field, "a"))
    add(box, delta(0, kind, field, "b"))
    assert [line["delta"][field] for line in next_write(box).data] == ["a", "b"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x","new":1}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"},"new":1}',
    ],
    ids=["in the delta", "in the event"],
)
def test_merging_loses_no_field_that_is_new_in_the_api(raw: bytes) -> None:
    box = outbox()
    for each in (text("a"), raw, text("b")):
        add(box, each)
    assert orjson.loads(raw) in next_write(box).data
    assert next_write(box).text == "axb"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"x":1}',
        b'{"type":"content_block_delta","index":0,"delta":{"x":1}}',
        b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}',
        b'{"type":"content_block_delta","index":0}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta"}}',
    ],
)
def test_an_event_of_unknown_form_is_written_unchanged(raw: bytes) -> None:
    box = outbox()
    add(box, raw)
    assert next_write(box).lines == [events.wrap(3, 11, raw)]


def test_visible_text_is_written_with_the_events_that_carry_it() -> None:
    box = outbox()
    for raw in (
        text("a"),
        delta(0, "thinking_delta", "thinking", "hidden"),
        delta(1, "input_json_delta", "partial_json", "{"),
        text("b", index=2),
    ):
        add(box, raw)
    assert next_write(box).text == "ab"
    add(box, text("c"))
    assert next_write(box).text == "ab"  # the outstanding call does not change
    box.apply_reply(ok(14))
    assert next_write(box).text == "c"
    assert not next_write(box).fresh


def test_events_added_while_a_call_is_outstanding_are_written_with_the_next() -> None:
    box = outbox()
    add(box, text("a"))
    first = box.next_call()
    add(box, text("b"))
    add(box, text("c"))
    assert box.next_call() is first  # retried unchanged until Redis has replied
    box.apply_reply(ok(11))
    second = next_write(box)
    assert second.first == 12
    assert [line["delta"]["text"] for line in second.data] == ["bc"]


def test_numbers_are_dense_over_all_calls() -> None:
    box, written = outbox(), []
    for count in (1, 3, 2):
        for i in range(count):
            add(box, text("x", index=i))
        written += [orjson.loads(line) for line in next_write(box).lines]
        box.apply_reply(ok(written[-1]["n"]))
    assert [line["n"] for line in written] == list(range(11, 17))
    assert {line["e"] for line in written} == {3}


def test_an_empty_outbox_makes_no_call() -> None:
    box = outbox()
    assert box.acknowledged
    assert box.next_call() is None
    add(box, text("a"))
    assert not box.acknowledged
    box.next_call()
    assert not box.acknowledged  # not before the reply
    box.apply_reply(ok(11))
    assert box.acknowledged
    assert box.next_call() is None


def test_fields_of_the_record_are_written_even_without_an_event() -> None:
    box = outbox()
    box.note(a=1)
    box.note(a=2, b="x")
    assert not box.acknowledged
    call = next_write(box)
    assert (call.lines, call.fields) == ([], {"a": 2, "b": "x"})
    box.apply_reply(ok(10))
    add(box, text("a"))
    assert next_write(box).first == 11


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ([b"fenced", 4], "another worker has claimed it"),
        ([b"gone"], "expired or was deleted"),
        (gap(7), "its log ends at 7, and the events after that are no longer in memory"),
    ],
)
def test_a_refused_writer_writes_no_more(reply: list[Any], words: str) -> None:
    box = outbox()
    add(box, text("a"))
    box.next_call()
    box.apply_reply(reply)
    assert words in box.lost
    assert box.acknowledged
    add(box, text("b"))
    assert box.next_call() is None
    assert box.acknowledged


def test_a_cancel_request_arrives_with_the_reply_and_stays() -> None:
    box = outbox()
    for n, cancel in ((11, b""), (12, b"alice"), (13, b"")):
        add(box, text("x"))
        box.next_call()
        box.apply_reply(ok(n, cancel))
    assert box.cancel == "alice"
    assert not box.lost


def test_the_last_event_sets_state_log_and_ttl_in_one_call() -> None:
    box = outbox()
    add(box, text("a"))
    assert not box.ending
    box.end({"state": "done", "stop_reason": "end_turn"}, ended_ms=5)
    assert box.ending
    call = next_write(box)
    assert (call.first, call.ttl, call.text, call.final) == (11, 60, "a", "done")
    assert call.data[1:] == [{"type": events.END, "state": "done", "stop_reason": "end_turn"}]
    assert call.fields == {"ended_ms": 5}
    box.apply_reply(ok(12))
    assert box.acknowledged


def test_a_call_outstanding_when_the_end_is_added_is_not_the_last_one() -> None:
    box = outbox()
    add(box, text("a"))
    first = next_write(box)
    box.end({"state": "canceled"})
    assert (first.ttl, first.final) == (600, "")
    assert next_write(box) == first
    box.apply_reply(ok(11))
    assert next_write(box).final == "canceled"


def test_an_unknown_final_state_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a valid State"):
        outbox().end({"state": "finished"})


def test_ttls_are_set_with_the_first_call_and_the_last() -> None:
    """The renewal of the lease sets them in between."""
    box, lifetimes = outbox(n=0), []
    for n in range(1, 600):
        add(box, text("x"))
        lifetimes.append(next_write(box).ttl)
        box.apply_reply(ok(n))
    box.end({"state": "done"})
    assert lifetimes == [600] + 598 * [""]
    assert next_write(box).ttl == 60


def test_penstocks_own_events_are_numbered_like_the_others() -> None:
    box = outbox()
    box.add_own({"type": events.ATTEMPT, "mode": "continue"})
    add(box, text("a"))
    call = next_write(box)
    assert [line["type"] for line in call.data] == [events.ATTEMPT, "content_block_delta"]


def test_a_rewind_replaces_the_visible_text_by_what_remains() -> None:
    box = outbox()
    add(box, text("Hel"), text("lo"))
    box.next_call()
    add(box, text(" you"))
    box.apply_reply(ok(11))
    box.rewind(0, 3, left="Hel")
    add(box, text("p!"))
    call = next_write(box)
    assert call.data[1] == {"type": events.REWIND, "index": 0, "offset": 3}
    assert (call.fresh, call.text) == (True, "Help!")
    box.apply_reply(ok(14))
    add(box, text("?"))
    assert (next_write(box).fresh, next_write(box).text) == (False, "?")


def test_a_rewind_can_discard_all_text() -> None:
    box = outbox()
    add(box, text("Hello"))
    box.rewind(0, 0, left="")
    assert (next_write(box).fresh, next_write(box).text) == (True, "")


def test_a_rewind_of_other_blocks_leaves_the_text_unchanged() -> None:
    box = outbox()
    add(box, text("Hello"), delta(1, "input_json_delta", "partial_json", "{"))
    box.rewind(1, 0, left=None)
    add(box, text("!"))
    call = next_write(box)
    assert (call.fresh, call.text) == (False, "Hello!")
    assert [line["type"] for line in call.data][2:] == [events.REWIND, "content_block_delta"]


def block_start(index: int, **block: Any) -> bytes:
    return orjson.dumps({"type": "content_block_start", "index": index, "content_block": block})


def test_text_in_the_start_of_a_text_block_is_visible_text() -> None:
    box = outbox()
    add(box, block_start(0, type="text", text="In "), text("flow."))
    add(box, block_start(1, type="tool_use", text="no"), block_start(2, type="text", text=None))
    assert next_write(box).text == "In flow."


def test_text_deltas_of_a_block_that_is_not_text_are_not_visible_text() -> None:
    box = outbox()
    add(box, block_start(0, type="tool_use"), text("hidden"))
    assert next_write(box).text == ""
    box = outbox()
    add(box, block_start(0, type="tool_use"), block_start(0, type="text", text=""), text("shown"))
    assert next_write(box).text == "shown"


def test_an_own_event_may_hold_a_long_integer() -> None:
    box = outbox()
    box.add_own({"type": "x", "n": 2**70})
    assert next_write(box).lines == [b'{"e":3,"n":11,"data":{"type":"x","n":%d}}' % 2**70]


def test_a_call_has_a_limited_number_of_events_and_only_the_last_one_ends_the_stream() -> None:
    """Redis serves no other client during a call."""
    box, count = outbox(), EVENTS_PER_CALL_LIMIT + 10
    box.note(attempts=1)
    for n in range(count):
        add(box, text(f"{n} ", index=n))  # not merged
    box.end({"state": "done"}, ended_ms=1)
    first = next_write(box)
    assert (len(first.lines), first.final) == (EVENTS_PER_CALL_LIMIT, "")
    assert first.fields == {"attempts": 1}
    assert first.text == "".join(f"{n} " for n in range(EVENTS_PER_CALL_LIMIT))
    box.apply_reply(ok(10 + EVENTS_PER_CALL_LIMIT))
    assert not box.acknowledged
    last = next_write(box)
    assert (len(last.lines), last.final, last.fields) == (11, "done", {"ended_ms": 1})
    assert last.text == "".join(f"{n} " for n in range(EVENTS_PER_CALL_LIMIT, count))
    box.apply_reply(ok(10 + count + 1))
    assert box.acknowledged
