"""Entries of a log: events, and whatever else is there."""

import pytest

from penstock.events import UNREADABLE, Cursor, Event
from penstock.follow.entries import decode_entry


def test_an_entry_is_decoded_to_its_event() -> None:
    line = b'{"e":1,"n":5,"data":{"type":"ping"}}'
    assert decode_entry(b"1-5", {b"d": line}) == Event(1, 5, {"type": "ping"})


@pytest.mark.parametrize("line", [b"", b"half an ev\xff", b"[]", b'{"e":1,"n":"5","data":{}}'])
def test_an_entry_that_is_not_an_event_is_delivered_as_its_text(line: bytes) -> None:
    event = decode_entry(b"3-7", {b"d": line})
    assert event.cursor == Cursor(3, 7)
    assert event.type == UNREADABLE
    assert event.data["text"] == line.decode(errors="replace")


def test_an_entry_without_its_field_is_delivered_empty() -> None:
    assert decode_entry(b"3-7", {}) == Event(3, 7, {"type": UNREADABLE, "text": ""})
