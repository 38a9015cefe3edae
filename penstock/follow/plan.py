"""Decides how to follow a request or a job without a gap. Pure: does no I/O.

A `Follower` yields effects, such as "read the log", and is sent their results.
`penstock.follow.reader` executes them, in threads or on an event loop. So there is one algorithm
for both, which is tested without a Redis. docs/protocol.md describes it for other languages.
"""

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from redis.exceptions import RedisError

from penstock import events
from penstock.errors import NotFound, RedisUnavailable
from penstock.events import Cursor, Event
from penstock.follow import waiting
from penstock.follow.subscription import Received
from penstock.states import ENDED, State

#: Seconds without a message after which the reader reads the log, in case it missed one. A live
#: worker sends a heartbeat at least every two seconds.
SILENCE_S = 3.0
#: Entries of the log to read at once.
PAGE: Final = 1_000


class Decision(Enum):
    """What to do with an event that arrived."""

    DELIVER = auto()  #: it is the next one
    SKIP = auto()  #: it was delivered before
    READ_LOG = auto()  #: an event before it is missing: read the log
    GAP = auto()  #: the log itself does not have what is missing
    REWRITTEN = auto()  #: the log contradicts what was delivered


class Sequence:
    """The position of a reader, and the decision on each event that arrives."""

    def __init__(self, after: Cursor | None = None) -> None:
        self.cursor = after or Cursor()
        #: Redis has lost events that were delivered. A worker may write them again, or others.
        self.lost_tail = False
        self._last: Event | None = None
        self._exact = self.cursor.n > 0  # the log had an entry exactly at the cursor

    def decide(self, event: Event) -> Decision:
        """Decide on a published event. Changes nothing."""
        ahead = event.n - self.cursor.n
        if event.type == events.HEARTBEAT:
            return (
                Decision.READ_LOG if ahead > 0 or (self.lost_tail and not ahead) else Decision.SKIP
            )
        if self.lost_tail and ahead >= 0:
            return Decision.READ_LOG
        # Only the log shows how a new epoch began. (The producer's own event has epoch 0.)
        if ahead == 1 and (event.epoch == self.cursor.epoch or self.cursor.n <= 1):
            return Decision.DELIVER
        if ahead <= 0 and event.epoch <= self.cursor.epoch:
            return Decision.SKIP
        return Decision.READ_LOG

    def decide_logged(self, event: Event) -> Decision:
        """Decide on an entry of the log. The first entry of a page is the cursor's own."""
        if event.cursor == self.cursor:
            return Decision.SKIP if self._last in (None, event) else Decision.REWRITTEN
        ahead = event.n - self.cursor.n
        if ahead == 1:
            return Decision.DELIVER
        return Decision.GAP if ahead > 1 else Decision.REWRITTEN

    def contradicts(self, reading: "Reading") -> bool:
        """Whether the log should have the cursor's own entry but does not."""
        if not self._exact or reading.n < self.cursor.n or reading.base > self.cursor.n:
            return False
        return not reading.events or reading.events[0].cursor != self.cursor

    def advance(self, event: Event) -> None:
        """Move to ``event``, which is delivered."""
        self.cursor, self._last, self._exact = event.cursor, event, True

    def move_to(self, cursor: Cursor) -> None:
        """Move to ``cursor`` without delivering the event there."""
        self.cursor, self._last, self._exact = cursor, None, False


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read a page of the log from ``start`` on, and the record, at one moment."""

    start: Cursor


@dataclass(frozen=True, slots=True)
class ReadSnapshot:
    """Read the last entry of the log, the text so far and the record, at one moment."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for published events, at most this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of `ReadLog` and `ReadSnapshot`."""

    state: State | None  #: None: there is no record
    n: int
    events: list[Event]
    text: str = ""
    base: int = 1  #: number of the first event that the log still has


#: What a follower asks for: a read, a wait, or the delivery of a list of events.
Effect: TypeAlias = ReadLog | ReadSnapshot | Wait | list[Event]
Effects: TypeAlias = Generator[Effect, Any, None]


class Follower:
    """Decides what to do next, so that each event is delivered once, in order, to the last."""

    def __init__(
        self,
        id: str,
        *,
        after: Cursor | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
        text_first: bool = False,
        answered: bool = False,
        unavailable_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._id = id
        self._sequence = Sequence(after if after is not None and after.n else None)
        self._timeout = timeout
        self._unavailable_s = unavailable_s if unavailable_s is not None else timeout
        self._wait_for = wait_for
        self._text_first = text_first
        self._clock = clock
        self._record_seen = False
        self._from_snapshot = False  # the reader has a snapshot in place of the first events
        self._unavailable_since: float | None = None
        self._redis_answered = answered  # at least once

    def effects(self) -> Effects:
        """All effects, from the first read to the last event."""
        self._record_deadline = self._clock() + self._wait_for
        self._restart_timeout()
        if self._text_first:
            yield from self._snapshot(unless_new=True)
        while (yield from self._catch_up()):
            if self._time_left() <= 0:
                raise TimeoutError(f"no event of {self._id} for {self._timeout} s")
            if (yield from self._follow_channel()):
                return

    def _catch_up(self) -> Generator[Effect, Any, bool]:
        """Deliver what the log has after the cursor. Returns whether more will follow."""
        sequence = self._sequence
        while True:
            reading = yield from self._read(ReadLog(sequence.cursor))
            if sequence.contradicts(reading):
                yield from self._start_over()
                continue
            taken, decision = self._select(reading.events, sequence.decide_logged)
            if (yield from self._deliver(taken)):
                return False
            sequence.lost_tail = reading.n < sequence.cursor.n
            ended = reading.state in ENDED
            if decision is Decision.REWRITTEN or (sequence.lost_tail and ended):
                yield from self._start_over()
            elif decision is Decision.GAP or (not reading.events and reading.n > sequence.cursor.n):
                yield from self._snapshot()
            elif len(reading.events) < PAGE:
                return not ended

    def _follow_channel(self) -> Generator[Effect, Any, bool]:
        """Deliver what is published until an event may be missing. Returns whether it ended."""
        while True:
            received: Received = yield Wait(max(0.0, min(SILENCE_S, self._time_left())))
            if received.missed:
                return False  # the log has the events of the subscription, too
            taken, decision = self._select(received.events, self._sequence.decide)
            if (yield from self._deliver(taken)):
                return True
            if decision is Decision.GAP:
                yield from self._snapshot()
            if decision is not Decision.SKIP or not received.events or self._time_left() <= 0:
                return False

    def _select(
        self, found: list[Event], decide: Callable[[Event], Decision]
    ) -> tuple[list[Event], Decision]:
        """The events to deliver, and the decision on the first that is neither new nor old."""
        taken: list[Event] = []
        for event in found:
            decision = decide(event)
            if decision is Decision.DELIVER:
                if self._from_snapshot and event.type == events.REWIND:
                    # Its offset counts from the start of a block that the snapshot does not show.
                    return taken, Decision.GAP
                self._sequence.advance(event)
                taken.append(event)
            elif decision is not Decision.SKIP:
                return taken, decision
        return taken, Decision.SKIP

    def _deliver(self, taken: list[Event]) -> Generator[Effect, Any, bool]:
        """Deliver events to the reader. Returns whether the last event was among them."""
        if not taken:
            return False
        yield taken
        self._restart_timeout()  # the time that the reader took for them does not count
        return taken[-1].type == events.END

    def _snapshot(self, *, unless_new: bool = False) -> Effects:
        """Deliver the text so far in place of the events that led to it."""
        reading = yield from self._read(ReadSnapshot())
        top = reading.events[0] if reading.events else Event(0, reading.n, {})
        if unless_new and top.n <= 1:
            return
        # The last event is delivered separately: it has the state and the usage.
        n = top.n - 1 if top.type == events.END else top.n
        self._sequence.move_to(Cursor(top.epoch, n))
        self._from_snapshot = True
        yield [Event(top.epoch, n, {"type": events.SNAPSHOT, "text": reading.text})]
        self._restart_timeout()

    def _start_over(self) -> Effects:
        """Withdraw everything that was delivered, and begin again."""
        if self._from_snapshot:
            yield from self._snapshot()
            return
        self._sequence.move_to(Cursor())
        yield [Event(0, 0, {"type": events.REWIND, "index": 0, "offset": 0})]

    def _read(self, effect: ReadLog | ReadSnapshot) -> Generator[Effect, Any, Reading]:
        """Repeat a read until Redis answers and there is a record."""
        while True:
            try:
                reading: Reading = yield effect
            except (RedisError, OSError) as error:
                self._raise_unless_temporary(error)
                yield Wait(waiting.RETRY_S)
                continue
            self._redis_answered, self._unavailable_since = True, None
            if reading.state is not None:
                if not self._record_seen:
                    self._record_seen = True
                    self._restart_timeout()
                return reading
            left = self._record_deadline - self._clock()
            if self._record_seen or left <= 0:
                raise NotFound(f"no record of {self._id}: it never existed, or it has expired")
            yield Wait(min(SILENCE_S, left))  # the first event is published

    def _raise_unless_temporary(self, error: Exception) -> None:
        """Raise `RedisUnavailable` after a while, or ``error`` at once if waiting cannot help.

        A Redis that has never answered is not waited for: its address is probably wrong.
        """
        self._redis_answered = self._redis_answered or waiting.is_refusal(error)
        if not self._redis_answered or not waiting.may_succeed_later(error):
            raise error
        now = self._clock()
        self._unavailable_since = (
            now if self._unavailable_since is None else self._unavailable_since
        )
        limit = self._unavailable_s
        limit = waiting.MAX_UNAVAILABLE_S if limit is None else limit
        if now - self._unavailable_since >= limit:
            raise RedisUnavailable(
                f"Redis has been unavailable for {limit:g} s ({error}); to resume reading "
                f"{self._id} later, use after={str(self._sequence.cursor)!r}"
            ) from error

    def _restart_timeout(self) -> None:
        self._timeout_start = self._clock()

    def _time_left(self) -> float:
        """Seconds until the timeout, which starts again with every event."""
        if self._timeout is None:
            return math.inf
        return self._timeout_start + self._timeout - self._clock()
