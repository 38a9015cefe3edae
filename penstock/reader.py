"""Follow a request's or a job's events: each one once, in order, up to the end.

The order of steps is what makes it safe: subscribe and wait for Redis's acknowledgement, read
the log from the cursor, then go live. `Sequence` decides about every event that comes in; a hole
is filled from the log, so a lost message costs time and never content.
"""

import math
import time
from collections.abc import Iterator
from enum import Enum, auto
from itertools import chain
from typing import Any

from penstock import events
from penstock.connection import Connection
from penstock.errors import NotFound
from penstock.events import Cursor, Event
from penstock.keys import RecordKeys
from penstock.states import State

#: After so many seconds without a message the reader asks the record whether it missed one.
SILENCE_S = 3.0


class Verdict(Enum):
    """What to do about an event that came in."""

    TAKE = auto()  #: it is the next one
    DROP = auto()  #: it was taken before
    REFILL = auto()  #: something before it is missing: read the log


class Sequence:
    """Where a reader stands. Pure: decides, does no I/O."""

    def __init__(self, after: Cursor | None = None) -> None:
        self.cursor = after or Cursor()

    def judge(self, event: Event) -> Verdict:
        """Decide about ``event`` without changing anything."""
        if event.type == events.HEARTBEAT:
            return Verdict.REFILL if event.n > self.cursor.n else Verdict.DROP
        if event.n <= self.cursor.n:
            return Verdict.DROP
        return Verdict.TAKE if event.n == self.cursor.n + 1 else Verdict.REFILL

    def advance(self, event: Event) -> None:
        """Note that ``event`` was taken."""
        self.cursor = event.cursor


def logged(connection: Connection, keys: RecordKeys, after: Cursor) -> Iterator[Event]:
    """The events in the log behind ``after``, in pages, so that a long log is never one answer."""
    while True:
        page: list[Any] = connection.xrange(keys.log, min=f"({after}", max="+", count=1000)
        for _, fields in page:
            event = events.decode(fields[b"d"])
            after = event.cursor
            yield event
        if len(page) < 1000:
            return


def follow(
    connection: Connection,
    keys: RecordKeys,
    *,
    after: Cursor | None = None,
    timeout: float | None = None,
) -> Iterator[Event]:
    """Yield the events behind ``after`` up to and including the last one.

    ``timeout`` bounds the seconds between two events; then `TimeoutError` is raised, and the
    reader can go on later from the cursor of its last event. Raises `NotFound` when there is no
    record, or when it expires while being read.
    """
    sequence = Sequence(after)
    with connection.pubsub() as channel:
        channel.subscribe(keys.events)
        _await_subscription(channel)
        deadline = _Deadline(timeout)
        while not _ended(connection, keys, sequence):
            refill = logged(connection, keys, sequence.cursor)
            for event in chain(refill, _live(channel, sequence, deadline)):
                sequence.advance(event)
                yield event
                if event.type == events.END:
                    return
                deadline.renew()
            if deadline.passed():
                raise TimeoutError(f"no event of {keys.id} for {timeout} s")


def _ended(connection: Connection, keys: RecordKeys, sequence: Sequence) -> bool:
    """Whether everything there will ever be has been taken. Raises `NotFound`."""
    state, n = connection.hmget(keys.meta, "state", "n")
    if state is None or n is None:
        raise NotFound(f"no record of {keys.id}: it never existed, or it has expired")
    return State(state.decode()).ended and int(n) <= sequence.cursor.n


def _live(channel: Any, sequence: Sequence, deadline: "_Deadline") -> Iterator[Event]:
    """Events as they are published, until a hole shows or nothing came for a while."""
    while (event := _next(channel, min(SILENCE_S, deadline.left()))) is not None:
        verdict = sequence.judge(event)
        if verdict is Verdict.REFILL:
            return
        if verdict is Verdict.TAKE:
            yield event


def _next(channel: Any, patience: float) -> Event | None:
    """The next published event, or None if none came in ``patience`` seconds."""
    until = time.monotonic() + patience
    while (left := until - time.monotonic()) > 0:
        message = channel.get_message(timeout=left)
        if message is not None and message["type"] == "message":
            return events.decode(message["data"])
    return None


class _Deadline:
    """A time limit that starts anew with every event; ``None`` never passes."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self.renew()

    def renew(self) -> None:
        self._at = time.monotonic() + self._seconds

    def left(self) -> float:
        return self._at - time.monotonic()

    def passed(self) -> bool:
        return self.left() <= 0


def _await_subscription(channel: Any) -> None:
    """Wait for Redis to say that the subscription stands; before that events can be missed."""
    while True:
        message = channel.get_message(timeout=SILENCE_S)
        if message is not None and message["type"] == "subscribe":
            return
