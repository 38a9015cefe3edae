"""Outbox: what is written of a stream, in which pieces, and what the answers mean."""

from typing import Any

import orjson
import pytest

from penstock import events
from penstock.keys import Keys
from tasks.outbox import Call, Outbox

ID = "0190a5b0-0000-7000-8000-000000000001"
KEYS = Keys("p").request(ID)


def outbox(**fields: Any) -> Outbox:
    options = {"epoch": 3, "n": 10, "ttl_s": 600, "retention_s": 60, **fields}
    return Outbox(KEYS, **options)


def add(box: Outbox, raw: str | bytes) -> None:
    raw = raw.encode() if isinstance(raw, str) else raw
    box.add(raw, orjson.loads(raw))


def delta(index: int, kind: str, field: str, value: str) -> bytes:
    data = {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: value}}
    return orjson.dumps(data)


def text(value: str, index: int = 0) -> bytes:
    return delta(index, "text_delta", "text", value)


def taken(box: Outbox) -> Call:
    call = box.take()
    assert call is not None
    return call


def lines(call: Call) -> list[dict[str, Any]]:
    count = call.args[5]
    return [orjson.loads(line)["data"] for line in call.args[6 : 6 + count]]


def fields(call: Call) -> dict[str, Any]:
    rest = call.args[6 + call.args[5] :]
    return dict(zip(rest[::2], rest[1::2], strict=True))


def ok(n: int, cancel: bytes = b"") -> list[Any]:
    return [b"ok", n, cancel]


def test_an_event_alone_is_written_as_the_very_bytes_that_came() -> None:
    box = outbox()
    raw = (
        b'{"type": "content_block_delta","index":0, "delta":{"type":"text_delta","text":"\\u00e9"}}'
    )
    add(box, raw)
    assert taken(box).args == [3, 11, 600, "é", "", 1, events.wrap(3, 11, raw)]
    assert taken(box).keys[:5] == [KEYS.meta, KEYS.log, KEYS.lease, KEYS.events, KEYS.text]
    assert KEYS.typed not in taken(box).keys


def test_bare_text_is_published_only_where_it_was_asked_for() -> None:
    box = outbox(typed=True)
    add(box, text("a"))
    assert KEYS.typed in taken(box).keys


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("text_delta", "text"),
        ("thinking_delta", "thinking"),
        ("input_json_delta", "partial_json"),
    ],
)
def test_neighbours_of_one_block_and_kind_become_one_event(kind: str, field: str) -> None:
    box = outbox()
    for piece in ("a", "", "b\u2028", "日"):
        add(box, delta(2, kind, field, piece))
    assert lines(taken(box)) == [
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
def test_only_neighbours_are_merged(between: bytes) -> None:
    box = outbox()
    for raw in (text("a"), text("b"), between, text("c"), text("d")):
        add(box, raw)
    ab, other, cd = lines(taken(box))
    assert (ab["delta"]["text"], cd["delta"]["text"]) == ("ab", "cd")
    assert other == orjson.loads(between)


@pytest.mark.parametrize(
    ("kind", "field"), [("signature_delta", "signature"), ("citations_delta", "citation")]
)
def test_what_is_not_known_to_add_up_is_never_merged(kind: str, field: str) -> None:
    box = outbox()
    add(box, delta(0, kind, field, "a"))
    add(box, delta(0, kind, field, "b"))
    assert [line["delta"][field] for line in lines(taken(box))] == ["a", "b"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x","new":1}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"},"new":1}',
    ],
    ids=["in the delta", "in the event"],
)
def test_merging_loses_no_field_that_is_new_to_the_api(raw: bytes) -> None:
    box = outbox()
    for each in (text("a"), raw, text("b")):
        add(box, each)
    assert orjson.loads(raw) in lines(taken(box))


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
def test_an_event_of_a_form_that_nobody_knows_passes_as_it_is(raw: bytes) -> None:
    box = outbox()
    add(box, raw)
    assert taken(box).args[6] == events.wrap(3, 11, raw)


def test_visible_text_goes_with_the_events_that_carry_it() -> None:
    box = outbox()
    for raw in (
        text("a"),
        delta(0, "thinking_delta", "thinking", "hidden"),
        delta(1, "input_json_delta", "partial_json", "{"),
        text("b", index=2),
    ):
        add(box, raw)
    call = taken(box)
    assert call.args[3] == "ab"
    add(box, text("c"))
    assert taken(box).args[3] == "ab"  # the call under way stays what it was
    box.settle(ok(14))
    assert taken(box).args[3] == "c"


def test_events_that_come_while_a_call_is_under_way_go_with_the_next() -> None:
    box = outbox()
    add(box, text("a"))
    first = taken(box)
    add(box, text("b"))
    add(box, text("c"))
    assert taken(box) is first  # sent again unchanged until Redis has answered
    box.settle(ok(11))
    second = taken(box)
    assert second.args[1] == 12
    assert [line["delta"]["text"] for line in lines(second)] == ["bc"]


def test_numbers_are_dense_over_all_calls() -> None:
    box, written = outbox(), []
    for count in (1, 3, 2):
        for i in range(count):
            add(box, text("x", index=i))
        call = taken(box)
        written += [orjson.loads(line) for line in call.args[6 : 6 + call.args[5]]]
        box.settle(ok(written[-1]["n"]))
    assert [line["n"] for line in written] == list(range(11, 17))
    assert {line["e"] for line in written} == {3}


def test_nothing_to_write_is_no_call() -> None:
    box = outbox()
    assert box.settled
    assert box.take() is None
    add(box, text("a"))
    assert not box.settled
    taken(box)
    assert not box.settled  # not before the answer
    box.settle(ok(11))
    assert box.settled
    assert box.take() is None


def test_fields_of_the_record_are_written_even_without_an_event() -> None:
    box = outbox()
    box.note(a=1)
    box.note(a=2, b="x")
    assert not box.settled
    call = taken(box)
    assert (lines(call), fields(call)) == ([], {"a": 2, "b": "x"})
    box.settle(ok(10))
    add(box, text("a"))
    assert taken(box).args[1] == 11


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ([b"fenced", 4], "another worker has claimed it"),
        ([b"gone"], "expired or was deleted"),
        ([b"gap", 7], "its log ends at 7, not at 10"),
    ],
)
def test_a_writer_that_was_refused_writes_no_more(reply: list[Any], words: str) -> None:
    box = outbox()
    add(box, text("a"))
    taken(box)
    box.settle(reply)
    assert words in box.lost
    assert box.settled
    add(box, text("b"))
    assert box.take() is None
    assert box.settled


def test_a_wish_to_cancel_comes_with_the_answer_and_stays() -> None:
    box = outbox()
    for n, cancel in ((11, b""), (12, b"alice"), (13, b"")):
        add(box, text("x"))
        taken(box)
        box.settle(ok(n, cancel))
    assert box.cancel == "alice"
    assert not box.lost


def test_the_end_changes_state_log_and_lifetime_in_one_call() -> None:
    box = outbox()
    add(box, text("a"))
    assert not box.ending
    box.end({"state": "done", "stop_reason": "end_turn"}, ended_ms=5)
    assert box.ending
    call = taken(box)
    assert call.args[:6] == [3, 11, 60, "a", "done", 2]
    assert lines(call)[1] == {"type": events.END, "state": "done", "stop_reason": "end_turn"}
    assert fields(call) == {"ended_ms": 5}
    box.settle(ok(12))
    assert box.settled


def test_a_call_that_is_under_way_when_the_end_comes_is_not_the_last_one() -> None:
    box = outbox()
    add(box, text("a"))
    first = taken(box)
    box.end({"state": "canceled"})
    assert (first.args[2], first.args[4]) == (600, "")
    box.settle(ok(11))
    assert taken(box).args[4] == "canceled"


def test_a_state_that_does_not_exist_ends_nothing() -> None:
    with pytest.raises(ValueError, match="is not a valid State"):
        outbox().end({"state": "finished"})


def test_the_lifetime_is_renewed_every_so_often_and_with_the_first_call() -> None:
    box, renewals = outbox(n=0), []
    for n in range(1, 600):
        add(box, text("x"))
        renewals.append(taken(box).args[2])
        box.settle(ok(n))
    assert renewals[0] == 600
    assert set(renewals) == {600, ""}
    assert 2 <= renewals.count(600) <= 20


def test_penstocks_own_events_are_numbered_like_the_others() -> None:
    box = outbox()
    box.add_own({"type": events.RESUME, "mode": "continue"})
    add(box, text("a"))
    call = taken(box)
    assert [line["type"] for line in lines(call)] == [events.RESUME, "content_block_delta"]
