"""Sequence: each event is delivered once, in order, despite loss, duplicates and delays."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import events
from penstock.events import Cursor, Event
from penstock.follow.plan import Decision, Sequence


def event(n: int, epoch: int = 1, kind: str = "content_block_delta") -> Event:
    return Event(epoch, n, {"type": kind})


def heartbeat(n: int, epoch: int = 1) -> Event:
    return event(n, epoch, events.HEARTBEAT)


@pytest.mark.parametrize(
    ("at", "came", "decision"),
    [
        (0, event(1), Decision.DELIVER),
        (0, event(2), Decision.READ_LOG),
        (5, event(6), Decision.DELIVER),
        (5, event(5), Decision.SKIP),
        (5, event(1), Decision.SKIP),
        (5, event(7), Decision.READ_LOG),
        (5, event(6, kind=events.END), Decision.DELIVER),
        (5, event(7, kind=events.END), Decision.READ_LOG),
        (5, event(6, epoch=2), Decision.READ_LOG),  # only the log shows how an epoch began
        (5, event(5, epoch=2), Decision.READ_LOG),
        (5, event(6, epoch=0), Decision.READ_LOG),
        (1, event(2, epoch=2), Decision.DELIVER),  # before it there is only the producer's event
        (5, heartbeat(5), Decision.SKIP),
        (5, heartbeat(4), Decision.SKIP),
        (5, heartbeat(6), Decision.READ_LOG),
        (0, heartbeat(0), Decision.SKIP),
    ],
)
def test_the_decision_on_an_event(at: int, came: Event, decision: Decision) -> None:
    sequence = Sequence(Cursor(1, at))
    assert sequence.decide(came) is decision
    assert sequence.cursor == Cursor(1, at)  # deciding changes nothing


def test_a_reader_without_a_cursor_begins_at_the_beginning() -> None:
    assert Sequence().cursor == Cursor(0, 0)
    assert Sequence().decide(event(1, epoch=0)) is Decision.DELIVER


def test_a_delivered_event_moves_the_cursor_to_it_and_its_epoch() -> None:
    sequence = Sequence(Cursor(1, 5))
    sequence.advance(event(6, epoch=3))
    assert sequence.cursor == Cursor(3, 6)
    assert sequence.decide(event(7, epoch=3)) is Decision.DELIVER


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Event], list[Event]]:
    """A log with takeovers, and what a subscriber receives of it: events that arrive late, twice
    or never, and heartbeats."""
    steps = draw(st.lists(st.integers(0, 3).map(lambda i: int(i == 3)), min_size=1, max_size=25))
    log, epoch = [], 0
    for n, effect in enumerate(steps, start=1):
        epoch += effect
        log.append(event(n, epoch, events.END if n == len(steps) else "content_block_delta"))
    received: list[Event] = []
    for entry in log:
        received += [entry] * draw(st.sampled_from([0, 1, 1, 1, 2]))
        if draw(st.booleans()):
            received.append(heartbeat(draw(st.integers(max(entry.n - 2, 0), entry.n)), entry.epoch))
        if draw(st.integers(0, 5)) == 0:
            received.append(log[draw(st.integers(0, entry.n - 1))])  # an old one once more
    return log, received


def followed(log: list[Event], received: list[Event], after: Cursor) -> list[Event]:
    """What `follow` does, without Redis: at each event the log has all that was published."""
    sequence, taken = Sequence(after), []

    def refill(upto: int) -> None:
        for entry in log:
            if entry.cursor > sequence.cursor and entry.n <= upto:
                sequence.advance(entry)
                taken.append(entry)

    published = 0
    for came in received:
        published = max(published, came.n)
        decision = sequence.decide(came)
        if decision is Decision.READ_LOG:
            refill(published)
        elif decision is Decision.DELIVER:
            sequence.advance(came)
            taken.append(came)
    refill(len(log))  # silence: the record says that there is more
    return taken


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), st.integers(0, 25))
def test_every_event_is_delivered_once_in_order_whatever_was_received(
    history: tuple[list[Event], list[Event]], start: int
) -> None:
    log, received = history
    start = min(start, len(log))
    after = log[start - 1].cursor if start else Cursor()
    assert followed(log, received, after) == log[start:]
