"""Follower: any story of losses, takeovers and late messages ends with the events of the log."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import events
from penstock.events import Event
from penstock.follow.plan import (
    Follower,
    Wait,
)
from penstock.follow.subscription import Received
from tests.unit.penstock.follow.scripted_world import World


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
