"""Events: an envelope around each event of the API, and Penstock's own event types.

In Redis an event is one line of JSON: ``{"e":1,"n":58,"data":{...}}``. ``e`` is the epoch, which
every claim raises. ``n`` numbers the events of a request from 1, without a gap. ``data`` is an
event of the API as it was received (consecutive deltas of a block may be merged), or one of the
``penstock.*`` types below.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from penstock import json_text

#: How the types of Penstock's own events begin.
OWN_PREFIX: Final = "penstock."

#: The request or the job is recorded and waits for a worker. Always the first event (epoch 0, n 1).
QUEUED: Final = "penstock.queued"
#: A further attempt begins. ``mode``: ``prefill``, ``user_turn``, ``restart`` or ``start``;
#: ``attempt``: its number; ``reason``: the type of the interruption, or ``takeover``.
ATTEMPT: Final = "penstock.attempt"
#: Discard what followed the first ``offset`` characters of block ``index``, and all later blocks.
REWIND: Final = "penstock.rewind"
#: In place of events that the log no longer has, or that the reader did not ask for. ``text``: the
#: visible text up to this event's ``n``. Created by readers; neither published nor logged.
SNAPSHOT: Final = "penstock.snapshot"
#: In place of an entry of the log that is not an event. ``text``: what the entry contains.
#: Created by readers; neither published nor logged.
UNREADABLE: Final = "penstock.unreadable"
#: The worker is alive, and ``n`` is the number of the last event. Published but not logged.
HEARTBEAT: Final = "penstock.heartbeat"
#: A step of a batch job is complete. ``step``, ``shard``, ``state``, ``batch_id``, ``counts``.
PROGRESS: Final = "penstock.progress"
#: A batch job is paused: nothing more is sent to the API until a client resumes it. ``reason``:
#: ``type``, ``message`` and ``shard``.
PAUSED: Final = "penstock.paused"
#: A paused batch job is resumed. ``by``: who asked for it.
RESUMED: Final = "penstock.resumed"
#: A batch job needs the operator's attention, and continues. ``alert``: ``type`` and ``message``.
ALERT: Final = "penstock.alert"
#: The last event, exactly once. ``state``: ``done``, ``failed`` or ``canceled``.
END: Final = "penstock.end"


_CURSOR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_LARGEST = 2**64 - 1  # of both parts of an entry id in Redis


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A position in the log of a request or a job: the last event that a reader has taken.

    As text it is ``<epoch>-<n>``, like the entry ids of the log in Redis. Cursors can be compared::

        cursor = stream.cursor
        stored = str(cursor)                      # such as "1-58"
        assert Cursor.parse(stored) == cursor
        client.messages.attach(id, after=stored)  # or after=cursor
    """

    epoch: int = 0
    n: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def of(cls, value: "Cursor | str | None") -> "Cursor | None":
        """Convert what a caller may pass as a cursor. Raises `ValueError`."""
        return cls.parse(value) if isinstance(value, str) else value

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor from its text. Raises `ValueError` if it is not one."""
        # A cursor may come from outside, and int() accepts signs, spaces and any number of digits.
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise ValueError(f"not a cursor: {text[:40]!r}")
        epoch, n = int(match[1]), int(match[2])
        if max(epoch, n) > _LARGEST:
            raise ValueError(f"not a cursor: {text[:41]!r}")
        return cls(epoch, n)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a request or a job.

    ``data`` is the JSON of one event of the API's stream (Messages API, Streaming), or of a
    ``penstock.*`` event, of which `penstock.events` has a list. For example::

        for event in request.events(after=cursor):
            if event.type == "content_block_delta":
                print(event.n, event.data["delta"])
            save(str(event.cursor))
    """

    epoch: int  #: of the claim that wrote it; 0 for events of jobs and of the producer
    n: int  #: its number: 1, 2, 3 and so on, without a gap
    data: dict[str, Any]  #: the event of the API, or of Penstock

    @property
    def type(self) -> str:
        """The type of the event, such as ``content_block_delta`` or ``penstock.end``."""
        return str(self.data.get("type", ""))

    @property
    def cursor(self) -> Cursor:
        """The position after this event, for ``attach(id, after=…)``."""
        return Cursor(self.epoch, self.n)


def wrap(epoch: int, n: int, data: bytes) -> bytes:
    """Put the envelope around an event that is already JSON, without parsing it."""
    return b'{"e":%d,"n":%d,"data":%s}' % (epoch, n, data)


def encode(epoch: int, n: int, data: dict[str, Any]) -> bytes:
    """Encode an event for Redis."""
    return wrap(epoch, n, json_text.dumps(data))


def decode(line: bytes | str) -> Event:
    """Decode an event from Redis. Raises `ValueError` if it is not one."""
    try:
        fields = _parsed(line)
        epoch, n, data = fields["e"], fields["n"], fields["data"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an event: {line[:80]!r}") from error
    if type(epoch) is int and type(n) is int and type(data) is dict:
        return Event(epoch, n, data)
    raise ValueError(f"not an event: {line[:80]!r}")


def _parsed(line: bytes | str) -> Any:
    # Nearly every event is a delta, which contains no numbers: a parser that is twice as fast, but
    # rounds long integers, is enough for it.
    try:
        fields = orjson.loads(line)
        if fields["data"]["type"] == "content_block_delta":
            return fields
    except (KeyError, TypeError, orjson.JSONDecodeError):
        pass
    return json_text.loads(line)
