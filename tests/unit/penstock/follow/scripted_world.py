"""A Redis and a clock for the tests of a follower, both scripted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from penstock import events
from penstock.events import Cursor, Event
from penstock.follow.plan import (
    PAGE,
    Follower,
    Reading,
    ReadLog,
    ReadSnapshot,
    Wait,
)
from penstock.follow.subscription import Received
from penstock.states import State


@dataclass
class World:
    """A Redis and a clock, both scripted."""

    log: list[Event] = field(default_factory=list)
    state: State | None = State.RUNNING
    n: int | None = None  #: of the record, where it is not that of the log
    text: str = ""
    now: float = 0.0
    unavailable: bool = False
    error: Exception = field(default_factory=lambda: redis.ConnectionError("unavailable"))
    received: list[Received] = field(default_factory=list)
    happenings: list[Callable[[], object]] = field(default_factory=list)  #: one each Wait
    reads: int = 0  #: of the log
    waits: list[float] = field(default_factory=list)

    def write(self, kind: str = "x", epoch: int = 1) -> Event:
        event = Event(epoch, len(self.log) + 1, {"type": kind, "epoch": epoch})
        self.log.append(event)
        if kind == events.END:
            self.state = State.DONE
        return event

    def reading(self, found: list[Event], text: str = "") -> Reading:
        n = self.n if self.n is not None else (self.log[-1].n if self.log else 0)
        base = self.log[0].n if self.log else 1
        return Reading(self.state, 0 if self.state is None else n, found, text, base)

    def answer(self, effect: Any) -> Any:
        if isinstance(effect, Wait):
            self.waits.append(effect.seconds)
            if self.received:
                return self.received.pop(0)
            if self.happenings:
                self.happenings.pop(0)()
                return Received([], missed=True)
            self.now += effect.seconds
            return Received([], missed=False)
        if self.unavailable:
            return self.error
        if isinstance(effect, ReadLog):
            self.reads += 1
            following = sorted(e for e in self.entries() if e[0] >= effect.start)
            return self.reading([event for _, event in following[:PAGE]])
        assert isinstance(effect, ReadSnapshot)
        return self.reading([e for _, e in sorted(self.entries())[-1:]], self.text)

    def entries(self) -> list[tuple[Cursor, Event]]:
        return [(event.cursor, event) for event in self.log]

    def follow(self, **options: Any) -> list[Event]:
        taken: list[Event] = []
        plan = Follower("the-id", clock=lambda: self.now, **options).effects()
        answer: Any = None
        try:
            while True:
                throw = isinstance(answer, Exception)
                effect = plan.throw(answer) if throw else plan.send(answer)
                if isinstance(effect, list):
                    taken += effect
                    answer = None
                else:
                    answer = self.answer(effect)
        except StopIteration:
            return taken
