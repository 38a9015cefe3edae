"""The event: an envelope round the API's own event, and Penstock's own few types.

On the wire an event is one line of JSON: ``{"e":1,"n":58,"data":{...}}``. ``e`` is the epoch
(raised by every claim), ``n`` counts the events of a request without holes over its whole life,
and ``data`` is what the API sent, unchanged, or one of the ``penstock.*`` types below.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

#: The request has been recorded and waits for a worker. Always the first event (epoch 0, n 1).
QUEUED: Final = "penstock.queued"
#: A further attempt begins. ``mode``: ``prefill``, ``user_turn``, ``restart`` or ``start``;
#: ``attempt``: its number; ``reason``: the type of the interruption, or ``takeover``.
ATTEMPT: Final = "penstock.attempt"
#: Discard what came after ``offset`` characters of block ``index``, and all later blocks.
REWIND: Final = "penstock.rewind"
#: In place of events that the log no longer has, or that were not asked for. ``text``: the visible
#: answer up to this event's ``n``. Made by readers; neither published nor logged.
SNAPSHOT: Final = "penstock.snapshot"
#: Published, not logged: the worker is alive and ``n`` is the number of the last event.
HEARTBEAT: Final = "penstock.heartbeat"
#: A batch job went a step further. ``step``, ``shard`` and ``counts``.
PROGRESS: Final = "penstock.progress"
#: Nothing more of a batch job is sent to the API until somebody resumes it. ``reason``: ``type``,
#: ``message`` and ``shard``.
PAUSED: Final = "penstock.paused"
#: A paused batch job goes on. ``by``: who asked for it.
RESUMED: Final = "penstock.resumed"
#: A batch job needs somebody's attention, and goes on. ``alert``: ``type`` and ``message``.
ALERT: Final = "penstock.alert"
#: Always the last event, exactly once. ``state``: ``done``, ``failed`` or ``canceled``.
END: Final = "penstock.end"


_CURSOR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_LARGEST = 2**64 - 1  # the halves of an entry id in Redis


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in a request's log, written ``<epoch>-<n>`` like the log's own entry ids."""

    epoch: int = 0
    n: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def of(cls, value: "Cursor | str | None") -> "Cursor | None":
        """What a user may give as a cursor. Raises `ValueError`."""
        return cls.parse(value) if isinstance(value, str) else value

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor back. Raises `ValueError` for anything that is not one."""
        # int() takes signs, blanks and any number of digits; a cursor from outside may be anything.
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise ValueError(f"not a cursor: {text[:40]!r}")
        epoch, n = int(match[1]), int(match[2])
        if max(epoch, n) > _LARGEST:
            raise ValueError(f"not a cursor: {text[:41]!r}")
        return cls(epoch, n)


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
        epoch, n, data = fields["e"], fields["n"], fields["data"]
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not an event: {line[:80]!r}") from error
    if type(epoch) is int and type(n) is int and type(data) is dict:
        return Event(epoch, n, data)
    raise ValueError(f"not an event: {line[:80]!r}")
