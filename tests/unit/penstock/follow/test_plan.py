"""Follower: the reading algorithm, without a Redis."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import events
from penstock.errors import NotFound, RedisUnavailable
from penstock.events import Cursor, Event
from penstock.follow.plan import (
    MAX_UNAVAILABLE_S,
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
    received: list[Received] = field(default_factory=list)
    happenings: list[Callable[[], object]] = field(default_factory=list)  #: one each Wait
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
            return redis.ConnectionError("unavailable")
        if isinstance(effect, ReadLog):
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


@pytest.fixture
def world() -> World:
    world = World()
    world.write(events.QUEUED, epoch=0)
    return world


def numbers(found: list[Event]) -> list[int]:
    return [event.n for event in found]


def test_a_request_that_has_ended_is_read_without_waiting(world: World) -> None:
    for _ in range(2 * PAGE):
        world.write()
    world.write(events.END)
    assert world.follow() == world.log
    assert world.waits == []


def test_the_log_is_read_again_when_redis_acknowledges_the_subscription(world: World) -> None:
    world.happenings = [lambda: world.write(), lambda: world.write(events.END)]
    assert world.follow() == world.log


def test_a_lost_last_message_costs_no_more_than_the_silence_interval(world: World) -> None:
    def end_unpublished() -> None:
        world.write(events.END)
        world.received = [Received([], missed=False)]  # as after a wait without a message

    world.happenings = [end_unpublished]
    world.received = [Received([], missed=False)]
    assert numbers(world.follow()) == [1, 2]


def test_an_event_of_another_epoch_is_delivered_only_from_the_log(world: World) -> None:
    first = [world.write() for _ in range(3)]
    second = world.write(epoch=2)
    third = world.write(events.END, epoch=2)
    log, world.log = world.log, world.log[:4]
    world.state = State.RUNNING

    def more() -> None:
        world.log, world.state = log, State.DONE

    world.happenings = [more]
    world.received = [Received([], missed=True), Received([third], missed=False)]
    assert world.follow()[1:] == [*first, second, third]


def test_events_that_redis_lost_and_a_worker_rewrote_are_delivered_once(world: World) -> None:
    log = [*world.log, *(world.write() for _ in range(5))]

    def lose() -> None:
        world.log = log[:3]

    def rewrite() -> None:
        world.log = list(log)
        world.write(events.END)

    world.happenings = [lose, rewrite]
    assert numbers(world.follow()) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("epoch", [1, 2])
def test_other_events_in_place_of_lost_ones_are_read_from_the_beginning(
    world: World, epoch: int
) -> None:
    """By another claim, or even with the same epoch: Redis may have lost the claim as well."""
    log = [*world.log, *(world.write() for _ in range(5))]

    def lose() -> None:
        world.log = log[:3]

    def write_other() -> None:
        for n in (4, 5, 6, 7):
            world.log.append(Event(epoch, n, {"type": "other"}))
        world.write(events.END, epoch)

    world.happenings = [lose, write_other]
    found = world.follow()
    assert found[:6] == log
    assert found[6] == Event(0, 0, {"type": events.REWIND, "index": 0, "offset": 0})
    assert found[7:] == world.log


def test_a_live_event_is_not_delivered_after_a_lost_log_tail(world: World) -> None:
    """Between the loss and the rewriting, an event may have just the next number."""
    log = [*world.log, *(world.write() for _ in range(5))]
    other = Event(1, 7, {"type": "other"})

    def lose() -> None:
        world.log = log[:3]

    def write_other() -> None:
        world.log += [Event(1, n, {"type": "other"}) for n in (4, 5, 6)] + [other]
        world.received = [Received([other], missed=False)]
        world.happenings = [lambda: world.write(events.END)]

    world.happenings = [lose, write_other]
    assert world.follow()[6].type == events.REWIND


def test_a_trimmed_log_gives_a_snapshot_in_place_of_missing_events(world: World) -> None:
    for _ in range(9):
        world.write()
    world.write(events.END)
    del world.log[:5]
    world.text = "all of it"
    found = world.follow(after=Cursor(1, 3))
    assert found[0] == Event(1, 10, {"type": events.SNAPSHOT, "text": "all of it"})
    assert numbers(found) == [10, 11]


def test_a_cursor_right_before_the_first_event_kept_needs_no_snapshot(world: World) -> None:
    for _ in range(9):
        world.write()
    world.write(events.END)
    del world.log[:5]
    assert numbers(world.follow(after=Cursor(1, 5))) == [6, 7, 8, 9, 10, 11]


def test_a_reader_of_a_snapshot_gets_another_snapshot_in_place_of_a_rewind(world: World) -> None:
    for _ in range(3):
        world.write()
    world.text = "Hello wrold"

    def rewind() -> None:
        world.write(events.REWIND)
        world.text = "Hello "

    world.happenings = [rewind, lambda: world.write(events.END)]
    found = world.follow(text_first=True)
    assert [(event.type, event.data.get("text")) for event in found] == [
        (events.SNAPSHOT, "Hello wrold"),
        (events.SNAPSHOT, "Hello "),
        (events.END, None),
    ]


def test_a_record_without_a_log_gives_a_snapshot(world: World) -> None:
    world.log, world.n, world.state, world.text = [], 9, State.DONE, "so far"
    assert world.follow() == [Event(0, 9, {"type": events.SNAPSHOT, "text": "so far"})]


def test_a_new_request_needs_no_snapshot_for_its_text(world: World) -> None:
    world.happenings = [lambda: world.write(events.END)]
    assert numbers(world.follow(text_first=True)) == [1, 2]


def test_without_a_record_there_is_nothing_to_follow(world: World) -> None:
    world.state = None
    with pytest.raises(NotFound, match="the-id"):
        world.follow()
    assert world.waits == []


def test_a_reader_may_wait_for_a_record_that_does_not_exist_yet(world: World) -> None:
    world.state = None

    def appear() -> None:
        world.state = State.RUNNING
        world.write(events.END)

    world.happenings = [lambda: None, appear]
    assert numbers(world.follow(wait_for=10.0)) == [1, 2]


def test_a_reader_waits_for_a_record_no_longer_than_requested(world: World) -> None:
    world.state = None
    with pytest.raises(NotFound):
        world.follow(wait_for=10.0)
    assert sum(world.waits) == pytest.approx(10.0)


def test_a_record_that_expired_is_not_waited_for(world: World) -> None:
    def expire() -> None:
        world.state = None

    world.happenings = [expire]
    with pytest.raises(NotFound):
        world.follow(wait_for=1_000.0)


def test_a_redis_that_is_unavailable_at_the_start_is_reported_at_once(world: World) -> None:
    world.unavailable = True
    with pytest.raises(redis.ConnectionError):
        world.follow()


def test_a_redis_that_becomes_unavailable_is_waited_for(world: World) -> None:
    def leave() -> None:
        world.unavailable = True

    def come_back() -> None:
        world.unavailable = False
        world.write()
        world.write(events.END)

    world.happenings = [leave, *[lambda: None] * 5, come_back]
    assert numbers(world.follow()) == [1, 2, 3]


@pytest.mark.parametrize("timeout", [None, 100.0])
def test_outages_of_redis_do_not_add_up(world: World, timeout: float | None) -> None:
    """Each one may be nearly as long as the limit, since Redis answered in between."""
    limit = timeout or MAX_UNAVAILABLE_S

    def leave() -> None:
        world.unavailable = True

    def come_back() -> None:
        world.now += 0.8 * limit
        world.unavailable = False
        world.write()

    world.happenings = [*4 * [leave, come_back], lambda: world.write(events.END)]
    assert numbers(world.follow(timeout=timeout)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("timeout", "limit"), [(None, MAX_UNAVAILABLE_S), (7.0, 7.0)])
def test_a_redis_that_stays_unavailable_ends_reading_with_the_cursor(
    world: World, timeout: float | None, limit: float
) -> None:
    world.write()

    def leave() -> None:
        world.unavailable = True

    world.happenings = [leave]
    with pytest.raises(RedisUnavailable, match=f"{limit:g} s .*after='1-2'"):
        world.follow(timeout=timeout)
    assert sum(world.waits) >= limit


def test_each_event_restarts_the_timeout_of_a_reader(world: World) -> None:
    def later() -> None:
        world.now += 4.0
        world.write()

    world.happenings = [later, later, later]
    with pytest.raises(TimeoutError, match=r"no event of the-id for 5\.0 s"):
        world.follow(timeout=5.0)
    assert world.now == pytest.approx(17.0)


class Story:
    """What a worker does and what a subscriber receives of it, drawn by hypothesis."""

    def __init__(self, data: st.DataObject, *, lossy: bool) -> None:
        self.world = World()
        self.world.write(events.QUEUED, epoch=0)
        self._draw = data.draw
        self._lossy = lossy
        self._left = self._draw(st.integers(1, 15))
        self._epoch = 1
        self._tag = 0
        self._lost: list[Event] = []

    def play(self) -> None:
        """Play the next part of the story, up to its end."""
        if self._left <= 0:
            return
        self._left -= 1
        if self._lossy and self._left and self._draw(st.integers(0, 3)) == 0:
            self._lose()
            return
        fresh = self._write_again()
        self._epoch += self._draw(st.sampled_from([0, 0, 0, 1]))
        fresh += [self._write() for _ in range(self._draw(st.integers(0, 4)))]
        if not self._left:
            fresh.append(self.world.write(events.END, self._epoch))
        self._publish(fresh)

    def _write(self) -> Event:
        event = self.world.write(epoch=self._epoch)
        self._tag += 1
        event.data["tag"] = self._tag
        return event

    def _lose(self) -> None:
        """Redis loses the tail of its log, and maybe the claim; connections are lost."""
        kept = self._draw(st.integers(1, len(self.world.log)))
        self.world.log, self._lost = self.world.log[:kept], self.world.log[kept:] + self._lost
        if not self._lost or self._draw(st.booleans()):
            self._lost, self._epoch = [], max(1, self.world.log[-1].epoch)
        self.world.received.append(Received([], missed=True))

    def _write_again(self) -> list[Event]:
        """Some or all of what was lost, unless another worker continues."""
        count = self._draw(st.integers(0, len(self._lost)))
        again, self._lost = self._lost[:count], self._lost[count:]
        self.world.log += again
        if self._lost:
            self._epoch = max(self._epoch, self.world.log[-1].epoch) + 1
            self._lost = []
        return again

    def _publish(self, fresh: list[Event]) -> None:
        published = [event for event in fresh if self._draw(st.booleans())]
        published += self._draw(st.lists(st.sampled_from(self.world.log), max_size=2))
        if self._draw(st.booleans()):
            last = self.world.log[-1].n
            published.append(Event(self._epoch, last, {"type": events.HEARTBEAT}))
        self.world.received.append(Received(published, missed=self._draw(st.booleans())))

    def read(self) -> list[Event]:
        """All events that a reader gets."""
        plan = Follower("x", clock=lambda: self.world.now).effects()
        taken: list[Event] = []
        answer: Any = None
        try:
            while True:
                effect = plan.send(answer)
                answer = None
                if isinstance(effect, list):
                    taken += effect
                    continue
                if isinstance(effect, Wait):
                    self.play()
                answer = self.world.answer(effect)
        except StopIteration:
            return taken


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_event_is_delivered_once_in_order_whatever_is_lost(data: st.DataObject) -> None:
    """Messages lost, duplicated, late or dropped by an overflow; takeovers; heartbeats."""
    story = Story(data, lossy=False)
    assert story.read() == story.world.log


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_reader_ends_with_the_events_of_the_log_even_if_redis_lost_its_tail(
    data: st.DataObject,
) -> None:
    """Lost events may be written again, or others in their place, even with the same epoch."""
    story = Story(data, lossy=True)
    taken = story.read()
    rewinds = [i for i, event in enumerate(taken) if event.type == events.REWIND]
    assert taken[rewinds[-1] + 1 if rewinds else 0 :] == story.world.log
