"""The event: an envelope round the API's own event, and Penstock's own few types.

On the wire an event is one line of JSON: ``{"e":1,"n":58,"data":{...}}``. ``e`` is the epoch
(raised by every claim), ``n`` counts the events of a request without holes over its whole life,
and ``data`` is what the API sent, unchanged, or one of the ``penstock.*`` types below.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

#: The request has been recorded and waits for a worker. Always the first event (epoch 0, n 1).
QUEUED: Final = "penstock.queued"
#: A worker went on after a break. ``mode``: ``continue`` or ``restart``; ``attempt``; ``reason``.
RESUME: Final = "penstock.resume"
#: Discard what came after ``offset`` characters of block ``index``, and all later blocks.
REWIND: Final = "penstock.rewind"
#: Published, not logged: the worker is alive and ``n`` is the number of the last event.
HEARTBEAT: Final = "penstock.heartbeat"
#: A batch job went a step further. ``step``, ``shard`` and ``counts``.
PROGRESS: Final = "penstock.progress"
#: Always the last event, exactly once. ``state``: ``done``, ``failed`` or ``canceled``.
END: Final = "penstock.end"


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in a request's log, written ``<epoch>-<n>`` like the log's own entry ids."""

    epoch: int = 0
    n: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor back. Raises `ValueError` for anything that is not one."""
        epoch, dash, n = text.partition("-")
        # int() takes signs, blanks and any number of digits; a cursor from outside may be anything.
        if not (dash and len(text) <= 40 and epoch.isascii() and epoch.isdigit()):
            raise ValueError(f"not a cursor: {text[:40]!r}")
        if not (n.isascii() and n.isdigit()):
            raise ValueError(f"not a cursor: {text[:40]!r}")
        return cls(int(epoch), int(n))


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a request or a job."""

    epoch: int  #: which claim wrote it
    n: int  #: its number, dense over the whole request
    data: dict[str, Any]  #: the API's event, or one of Penstock's own

    @property
    def type(self) -> str:
        """The event's type, such as ``content_block_delta`` or ``penstock.end``."""
        return str(self.data.get("type", ""))

    @property
    def cursor(self) -> Cursor:
        """The place right behind this event: give it to ``attach(id, after=…)``."""
        return Cursor(self.epoch, self.n)


def wrap(epoch: int, n: int, data: bytes) -> bytes:
    """Put the envelope round an event that is JSON already, without parsing it."""
    return b'{"e":%d,"n":%d,"data":%s}' % (epoch, n, data)


def encode(epoch: int, n: int, data: dict[str, Any]) -> bytes:
    """The wire form of an event."""
    return wrap(epoch, n, orjson.dumps(data))


def decode(line: bytes | str) -> Event:
    """Read an event's wire form. Raises `ValueError` if it is not one."""
    try:
        fields = orjson.loads(line)
        return Event(fields["e"], fields["n"], fields["data"])
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not an event: {line[:80]!r}") from error
