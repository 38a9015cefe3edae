"""What an outbox writes when Redis replies ``gap``: Redis has lost the end of the log.

test_outbox_model.py and the contract tests in test_lost_tail.py show that no event is ever lost or
doubled; here is each argument that such a call has to carry.
"""

from typing import Any

import pytest

from penstock import events
from tasks.streams.publish import outbox as module
from tasks.streams.publish.outbox import Outbox
from tests.unit.tasks.streams.publish.outbox_calls import (
    WriteArguments,
    add,
    gap,
    next_write,
    ok,
    outbox,
    text,
)


def write(box: Outbox, *pieces: str, **fields: Any) -> list[bytes]:
    """Write each piece in a call of its own; returns their lines."""
    lines: list[bytes] = []
    for piece in pieces:
        add(box, text(piece))
        if fields:
            box.note(**fields)
        call = next_write(box)
        lines += call.lines
        box.apply_reply(ok(call.first))
    return lines


def call_after_gap(box: Outbox, top: int, piece: str = "") -> WriteArguments:
    """Write one more piece, get a gap after ``top`` as the reply; returns the call that follows."""
    if piece:
        add(box, text(piece))
    box.next_call()
    box.apply_reply(gap(top))
    return next_write(box)


def test_lost_events_are_written_again_unchanged_together_with_the_next() -> None:
    box = outbox()
    lines = write(box, "a", "b", "c", "d")
    again = call_after_gap(box, 12, "e")  # c and d are lost
    assert again.first == 13
    assert again.lines[:2] == lines[2:]
    assert again.numbers == [13, 14, 15]
    assert again.text == "cde"
    box.apply_reply(ok(15))
    assert not box.lost
    add(box, text("f"))
    assert (next_write(box).first, next_write(box).text) == (16, "f")


def test_events_added_after_a_gap_wait_for_the_next_call() -> None:
    box = outbox()
    write(box, "a", "b")
    add(box, text("c"))
    box.next_call()
    add(box, text("d"))
    again = call_after_gap(box, 11)
    add(box, text("e"))
    assert next_write(box) == again
    assert again.text == "bc"
    box.apply_reply(ok(13))
    assert (next_write(box).first, next_write(box).text) == (14, "de")


def test_everything_since_the_claim_can_be_written_again() -> None:
    box = outbox()
    lines = write(box, "a", "b", "c")
    again = call_after_gap(box, 10, "d")
    assert again.lines[:3] == lines
    assert again.text == "abcd"


def test_the_last_value_of_each_field_of_the_record_is_written_again() -> None:
    box = outbox()
    write(box, "a", a=1, b=1)
    write(box, "b", a=2)
    box.note(c=3)
    assert call_after_gap(box, 10, "c").fields == {"a": 2, "b": 1, "c": 3}


def test_fields_written_without_an_event_are_written_again_too() -> None:
    box = outbox()
    write(box, "a")
    box.note(a=1)
    box.next_call()
    box.apply_reply(ok(11))
    write(box, "b")
    again = call_after_gap(box, 11, "c")
    assert again.fields == {"a": 1}
    assert again.numbers == [12, 13]


def test_ttls_are_set_again_after_a_gap_because_they_may_be_lost_too() -> None:
    box = outbox()
    write(box, "a", "b")
    assert call_after_gap(box, 11, "c").ttl == 600


def test_text_discarded_by_a_later_rewind_is_not_written_again() -> None:
    box = outbox()
    write(box, "a", "b")
    box.rewind(0, 1, left="a")
    write(box, "c", "d")
    again = call_after_gap(box, 11, "e")  # b, the rewind with c, and d are lost
    kinds = [each["type"] for each in again.data]
    assert kinds == ["content_block_delta", events.REWIND, *3 * ["content_block_delta"]]
    assert (again.fresh, again.text) == (True, "acde")


def test_text_is_not_replaced_if_the_rewind_was_not_lost() -> None:
    box = outbox()
    write(box, "a")  # 11
    box.rewind(0, 0, left="")
    add(box, text("b"))
    box.next_call()
    box.apply_reply(ok(13))
    write(box, "c")
    again = call_after_gap(box, 13, "d")
    assert (again.fresh, again.text, again.numbers) == (False, "cd", [14, 15])


def test_redis_may_lose_more_before_it_has_replied() -> None:
    box = outbox()
    lines = write(box, "a", "b", "c")
    assert call_after_gap(box, 12, "d").numbers == [13, 14]
    again = call_after_gap(box, 11)
    assert again.lines[:2] == lines[1:]
    assert (again.numbers, again.text) == ([12, 13, 14], "bcd")


def test_redis_may_lose_what_was_written_again() -> None:
    box = outbox()
    write(box, "a", "b", "c")
    call_after_gap(box, 12, "d")
    box.apply_reply(ok(14))
    again = call_after_gap(box, 11, "e")
    assert (again.numbers, again.text) == ([12, 13, 14, 15], "bcde")


def test_the_last_event_is_written_after_the_lost_ones() -> None:
    box = outbox()
    lines = write(box, "a", "b")
    box.end({"state": "done"}, ended_ms=5)
    again = call_after_gap(box, 11)
    assert again.lines[0] == lines[1]
    assert [each["type"] for each in again.data] == ["content_block_delta", events.END]
    assert (again.final, again.ttl, again.fields) == ("done", 60, {"ended_ms": 5})
    box.apply_reply(ok(13))
    assert box.acknowledged


def test_the_final_state_is_not_set_before_the_last_event_is_written() -> None:
    """The end was added while a call was outstanding that then left a gap."""
    box = outbox()
    write(box, "a")
    add(box, text("b"))
    box.next_call()
    box.end({"state": "done"})
    again = call_after_gap(box, 10)
    assert [each["type"] for each in again.data] == 2 * ["content_block_delta"]
    assert (again.final, again.ttl) == ("", 600)
    box.apply_reply(ok(12))
    last = next_write(box)
    assert (last.first, last.final, last.ttl) == (13, "done", 60)
    assert [each["type"] for each in last.data] == [events.END]


@pytest.mark.parametrize("top", [10, 11, 12])
def test_events_that_a_renewal_finds_lost_are_written_again_by_themselves(top: int) -> None:
    box = outbox()
    lines = write(box, "a", "b", "c")
    assert box.check_log_end(top)
    assert not box.acknowledged
    again = next_write(box)
    assert (again.first, again.lines) == (top + 1, lines[top - 10 :])
    assert (again.text, again.ttl) == ("abc"[top - 10 :], 600)
    box.apply_reply(ok(13))
    assert box.acknowledged


@pytest.mark.parametrize("top", [13, 14, -1])
def test_a_renewal_that_finds_nothing_lost_makes_no_call(top: int) -> None:
    """-1: the record no longer exists, as the reply to the next write will say."""
    box = outbox()
    write(box, "a", "b", "c")
    assert not box.check_log_end(top)
    assert box.next_call() is None


def test_an_outstanding_call_finds_lost_events_by_itself() -> None:
    box = outbox()
    write(box, "a")
    add(box, text("b"))
    call = box.next_call()
    assert not box.check_log_end(10)
    assert box.next_call() is call


def test_a_late_reply_to_a_renewal_does_no_harm() -> None:
    """It describes the log before the last call; that call is merely made again."""
    box = outbox()
    write(box, "a", "b")
    assert box.check_log_end(11)
    assert next_write(box).numbers == [12]
    box.apply_reply(ok(12))
    assert (box.acknowledged, box.lost) == (True, "")


def test_lost_events_that_are_no_longer_in_memory_end_the_run() -> None:
    box = outbox()
    write(box, "a", "b")
    assert not box.check_log_end(9)
    assert "its log ends at 9" in box.lost


@pytest.mark.parametrize("top", [9, 3])
def test_events_from_before_the_claim_cannot_be_written_again(top: int) -> None:
    box = outbox()
    write(box, "a")
    add(box, text("b"))
    box.next_call()
    box.apply_reply(gap(top))
    assert f"its log ends at {top}" in box.lost
    assert box.next_call() is None
    assert box.acknowledged


def test_a_log_that_ends_inside_one_of_our_calls_has_another_writer() -> None:
    """A call is written whole or not at all, so another worker wrote there."""
    box = outbox()
    add(box, text("a"), text("b", 1), text("c"))
    box.next_call()
    box.apply_reply(ok(13))
    add(box, text("d"))
    box.next_call()
    box.apply_reply(gap(12))
    assert "its log ends at 12" in box.lost


def test_the_events_kept_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(write(outbox(), "a")[0]) + len("a") + module.CALL_OVERHEAD_BYTES
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 3 * size)
    box = outbox()
    write(box, *"abcdef")  # 11 to 16
    assert call_after_gap(box, 13, "g").text == "defg"
    box.apply_reply(ok(17))
    write(box, "h", "i", "j")  # d to g were one call, and are dropped together
    assert call_after_gap(box, 17, "k").text == "hijk"
    box.apply_reply(gap(13))
    assert "the events after that are no longer in memory" in box.lost


def test_the_last_call_is_kept_however_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 10)
    box = outbox()
    (line,) = write(box, "much text")
    assert call_after_gap(box, 10, "more").lines[0] == line
