"""Decodes the entries of a log. Pure."""

from collections.abc import Mapping

from penstock import events
from penstock.events import Cursor, Event


def decode_entry(place: bytes, fields: Mapping[bytes, bytes]) -> Event:
    """Decode the entry at ``place``; of one that is not an event, its text is kept.

    The log never changes, so a reader that stopped there would never read on.
    """
    line = fields.get(b"d", b"")
    try:
        return events.decode(line)
    except ValueError:
        cursor = Cursor.parse(place.decode())
        text = line.decode(errors="replace")
        return Event(cursor.epoch, cursor.n, {"type": events.UNREADABLE, "text": text})
