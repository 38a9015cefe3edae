"""Decides how to follow a request or a job: log, channel and record without a seam. Pure.

A `Follower` yields what it wants to have done and is sent the answer; `penstock.follow.reader`
does it. So there is one algorithm for threads and for event loops, and it can be tested without a
Redis.
docs/protocol.md describes it for other languages.
"""

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from penstock import events
from penstock.errors import NotFound, RedisUnavailable
from penstock.events import Cursor, Event
from penstock.follow.subscription import Received
from penstock.states import ENDED, State
from penstock.store.availability import UNREACHABLE

#: After so many seconds without a message the reader asks the record whether it missed one. A
#: worker that lives sends a heartbeat at least every two.
SILENCE_S = 3.0
#: How long a reader without a timeout waits for a Redis that is away.
AWAY_S = 60.0
#: Pause before a Redis that is away is asked again, unless the hub has found it earlier.
LOOK_AGAIN_S: Final = 1.0
#: Entries of the log that are asked for at once.
PAGE: Final = 1_000


class Verdict(Enum):
    """What to do about an event that came in."""

    TAKE = auto()  #: it is the next one
    DROP = auto()  #: it was taken before
    REFILL = auto()  #: something before it is missing: read the log
    HOLE = auto()  #: the log itself does not have what is missing
    REWRITTEN = auto()  #: the log tells another story than the one that was taken


class Sequence:
    """Where a reader stands. Pure: decides, does no I/O."""

    def __init__(self, after: Cursor | None = None) -> None:
        self.cursor = after or Cursor()
        #: Redis has lost events that were taken. They may be written again, or others instead.
        self.doubtful = False
        self._last: Event | None = None
        self._exact = self.cursor.n > 0  # the log had an entry right at the cursor

    def judge(self, event: Event) -> Verdict:
        """Decide about a published event without changing anything."""
        ahead = event.n - self.cursor.n
        if event.type == events.HEARTBEAT:
            return Verdict.REFILL if ahead > 0 or (self.doubtful and not ahead) else Verdict.DROP
        if self.doubtful and ahead >= 0:
            return Verdict.REFILL
        # Only the log shows what a new epoch began with. (The producer's own event has epoch 0.)
        if ahead == 1 and (event.epoch == self.cursor.epoch or self.cursor.n <= 1):
            return Verdict.TAKE
        if ahead <= 0 and event.epoch <= self.cursor.epoch:
            return Verdict.DROP
        return Verdict.REFILL

    def judge_logged(self, event: Event) -> Verdict:
        """Decide about an entry of the log; it is read from the cursor's own entry on."""
        if event.cursor == self.cursor:
            return Verdict.DROP if self._last in (None, event) else Verdict.REWRITTEN
        ahead = event.n - self.cursor.n
        if ahead == 1:
            return Verdict.TAKE
        return Verdict.HOLE if ahead > 1 else Verdict.REWRITTEN

    def contradicts(self, reading: "Reading") -> bool:
        """Whether the log should have the cursor's own entry, and has not."""
        if not self._exact or reading.n < self.cursor.n or reading.base > self.cursor.n:
            return False
        return not reading.events or reading.events[0].cursor != self.cursor

    def advance(self, event: Event) -> None:
        """Note that ``event`` was taken."""
        self.cursor, self._last, self._exact = event.cursor, event, True

    def jump(self, cursor: Cursor) -> None:
        """Go on from ``cursor`` without having taken the event there."""
        self.cursor, self._last, self._exact = cursor, None, False


@dataclass(frozen=True, slots=True)
class Read:
    """Wanted: a page of the log from ``start`` on, and how the record stands."""

    start: Cursor


@dataclass(frozen=True, slots=True)
class Look:
    """Wanted: the last entry of the log, and text and record of the same moment."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wanted: what is published, or nothing after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer to `Read` and `Look`."""

    state: State | None  #: None: there is no record
    n: int
    events: list[Event]
    text: str = ""
    base: int = 1  #: number of the first event that the log still has


#: What a follower wants, or a list of events that it hands over.
Step: TypeAlias = Read | Look | Wait | list[Event]
Steps: TypeAlias = Generator[Step, Any, None]


class Follower:
    """Decides what to do next to deliver every event once, in order, up to the last one."""

    def __init__(
        self,
        id: str,
        *,
        after: Cursor | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
        text_first: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._id = id
        self._sequence = Sequence(after)
        self._timeout = timeout
        self._wait_for = wait_for
        self._text_first = text_first
        self._clock = clock
        self._known = False  # a record has been seen
        self._partial = False  # the reader has a snapshot in place of the first events
        self._away_since: float | None = None
        self._asked = False  # Redis has answered at least once

    def steps(self) -> Steps:
        """The plan, from the first look to the last event."""
        self._give_up = self._clock() + self._wait_for
        self._renew()
        if self._text_first:
            yield from self._snapshot(unless_new=True)
        while (yield from self._catch_up()):
            if self._left() <= 0:
                raise TimeoutError(f"no event of {self._id} for {self._timeout} s")
            if (yield from self._live()):
                return

    def _catch_up(self) -> Generator[Step, Any, bool]:
        """Take what the log has behind the cursor; returns whether more is to come."""
        sequence = self._sequence
        while True:
            reading = yield from self._ask(Read(sequence.cursor))
            if sequence.contradicts(reading):
                yield from self._start_over()
                continue
            taken, verdict = self._sift(reading.events, sequence.judge_logged)
            if (yield from self._hand_over(taken)):
                return False
            sequence.doubtful = reading.n < sequence.cursor.n
            ended = reading.state in ENDED
            if verdict is Verdict.REWRITTEN or (sequence.doubtful and ended):
                yield from self._start_over()
            elif verdict is Verdict.HOLE or (not reading.events and reading.n > sequence.cursor.n):
                yield from self._snapshot()
            elif len(reading.events) < PAGE:
                return not ended

    def _live(self) -> Generator[Step, Any, bool]:
        """Take what is published until something may be missing; returns whether it has ended."""
        while True:
            received: Received = yield Wait(max(0.0, min(SILENCE_S, self._left())))
            if received.missed:
                return False  # the log has what is in the box, too
            taken, verdict = self._sift(received.events, self._sequence.judge)
            if (yield from self._hand_over(taken)):
                return True
            if verdict is Verdict.HOLE:
                yield from self._snapshot()
            if verdict is not Verdict.DROP or not received.events or self._left() <= 0:
                return False

    def _sift(
        self, found: list[Event], judge: Callable[[Event], Verdict]
    ) -> tuple[list[Event], Verdict]:
        """The events to take, and the verdict on the first one that is neither taken nor old."""
        taken: list[Event] = []
        for event in found:
            verdict = judge(event)
            if verdict is Verdict.TAKE:
                if self._partial and event.type == events.REWIND:
                    # It counts from the start of a block that a reader of a snapshot cannot know.
                    return taken, Verdict.HOLE
                self._sequence.advance(event)
                taken.append(event)
            elif verdict is not Verdict.DROP:
                return taken, verdict
        return taken, Verdict.DROP

    def _hand_over(self, taken: list[Event]) -> Generator[Step, Any, bool]:
        """Give events to the reader; returns whether the last one was among them."""
        if not taken:
            return False
        yield taken
        self._renew()  # the time that the reader took for them is its own
        return taken[-1].type == events.END

    def _snapshot(self, *, unless_new: bool = False) -> Steps:
        """Hand over the text so far in place of the events that led to it."""
        reading = yield from self._ask(Look())
        top = reading.events[0] if reading.events else Event(0, reading.n, {})
        if unless_new and top.n <= 1:
            return
        # The end is an event of its own, which the reader still has to get.
        n = top.n - 1 if top.type == events.END else top.n
        self._sequence.jump(Cursor(top.epoch, n))
        self._partial = True
        yield [Event(top.epoch, n, {"type": events.SNAPSHOT, "text": reading.text})]
        self._renew()

    def _start_over(self) -> Steps:
        """Take everything back and begin again."""
        if self._partial:
            yield from self._snapshot()
            return
        self._sequence.jump(Cursor())
        yield [Event(0, 0, {"type": events.REWIND, "index": 0, "offset": 0})]

    def _ask(self, step: Read | Look) -> Generator[Step, Any, Reading]:
        """Have Redis asked until it answers and there is a record."""
        while True:
            try:
                reading: Reading = yield step
            except UNREACHABLE as error:
                self._bear(error)
                yield Wait(LOOK_AGAIN_S)
                continue
            self._asked, self._away_since = True, None
            if reading.state is not None:
                if not self._known:
                    self._known = True
                    self._renew()
                return reading
            left = self._give_up - self._clock()
            if self._known or left <= 0:
                raise NotFound(f"no record of {self._id}: it never existed, or it has expired")
            yield Wait(min(SILENCE_S, left))  # its first event is published

    def _bear(self, error: Exception) -> None:
        """Put up with a Redis that is away, for a while. Raises ``error`` if it never was there."""
        if not self._asked:
            raise error
        now = self._clock()
        self._away_since = now if self._away_since is None else self._away_since
        limit = AWAY_S if self._timeout is None else self._timeout
        if now - self._away_since >= limit:
            raise RedisUnavailable(
                f"Redis has been away for {limit:g} s ({error}); {self._id} can be "
                f"followed on later, after={str(self._sequence.cursor)!r}"
            ) from error

    def _renew(self) -> None:
        self._renewed_at = self._clock()

    def _left(self) -> float:
        """Seconds until the timeout; it starts anew with every event."""
        if self._timeout is None:
            return math.inf
        return self._renewed_at + self._timeout - self._clock()
