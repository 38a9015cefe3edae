"""Mailboxes and their fanout: who gets what, and what is told to whom."""

import pytest

from penstock import events
from penstock.events import Event
from penstock.follow.subscription import Dispatcher, Received, Subscription


def event(n: int) -> Event:
    return Event(1, n, {"type": "x"})


def line(n: int) -> bytes:
    return events.encode(1, n, {"type": "x"})


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher()


def joined(dispatcher: Dispatcher, channel: str = "a", limit: int = 1000) -> Subscription:
    box = Subscription(channel, limit)
    dispatcher.join(box)
    return box


def test_a_mailbox_gives_what_was_put_in_once_and_in_order() -> None:
    box = Subscription("a")
    for n in (1, 2, 3):
        box.put(event(n))
    assert box.take() == Received([event(1), event(2), event(3)], missed=False)
    assert box.take() == Received([], missed=False)


def test_a_full_mailbox_is_emptied_and_says_that_something_was_missed() -> None:
    box = Subscription("a", limit=3)
    for n in range(1, 6):
        box.put(event(n))
    assert box.take() == Received([event(4), event(5)], missed=True)
    box.put(event(6))
    assert box.take() == Received([event(6)], missed=False)


def test_a_mailbox_that_was_failed_raises_to_whoever_takes() -> None:
    box = Subscription("a")
    box.fail(ZeroDivisionError())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            box.take()


def test_a_channel_is_subscribed_to_once_for_all_its_readers(dispatcher: Dispatcher) -> None:
    boxes = [joined(dispatcher) for _ in range(3)]
    assert dispatcher.changes() == ([b"a"], [])
    assert dispatcher.changes() == ([], [])
    assert [dispatcher.leave(box) for box in boxes[:2]] == [False, False]
    assert dispatcher.changes() == ([], [])
    assert dispatcher.leave(boxes[2])
    assert dispatcher.changes() == ([], [b"a"])


def test_a_reader_that_comes_and_goes_between_two_looks_is_never_subscribed(
    dispatcher: Dispatcher,
) -> None:
    assert dispatcher.leave(joined(dispatcher))
    assert dispatcher.changes() == ([], [])


def test_readers_are_told_when_their_subscription_stands(dispatcher: Dispatcher) -> None:
    first, other = joined(dispatcher), joined(dispatcher, "b")
    dispatcher.changes()
    assert not first.take().missed
    dispatcher.stands(b"a")
    assert first.take().missed
    assert not other.take().missed
    assert joined(dispatcher).take().missed  # it stands already
    assert not first.take().missed


def test_a_subscription_is_not_relied_on_once_it_is_to_be_dropped(dispatcher: Dispatcher) -> None:
    box = joined(dispatcher)
    dispatcher.changes()
    dispatcher.stands(b"a")
    dispatcher.leave(box)
    dispatcher.changes()
    again = joined(dispatcher)
    assert not again.take().missed
    assert dispatcher.changes() == ([b"a"], [])


def test_a_message_reaches_the_readers_of_its_channel_as_the_same_event(
    dispatcher: Dispatcher,
) -> None:
    first, second, other = joined(dispatcher), joined(dispatcher), joined(dispatcher, "b")
    dispatcher.deliver(b"a", line(7))
    (one,), (two,) = first.take().events, second.take().events
    assert one == event(7)
    assert one is two
    assert other.take().events == []


@pytest.mark.parametrize("garbage", [b"", b"hello?", b"{}", b'{"e":1,"n":"1","data":{}}'])
def test_what_is_no_event_is_not_delivered(dispatcher: Dispatcher, garbage: bytes) -> None:
    box = joined(dispatcher)
    dispatcher.deliver(b"a", garbage)
    assert box.take() == Received([], missed=False)


def test_behind_a_cut_everything_is_subscribed_to_anew(dispatcher: Dispatcher) -> None:
    boxes = [joined(dispatcher, name) for name in "abc"]
    dispatcher.changes()
    for name in (b"a", b"b", b"c"):
        dispatcher.stands(name)
    dispatcher.leave(boxes[2])
    dispatcher.cut()
    added, dropped = dispatcher.changes()
    assert (sorted(added), dropped) == ([b"a", b"b"], [])
    for box in boxes[:2]:
        box.take()
    dispatcher.stands(b"a")
    assert [box.take().missed for box in boxes[:2]] == [True, False]


def test_a_refusal_reaches_only_those_who_wait_for_their_subscription(
    dispatcher: Dispatcher,
) -> None:
    standing, waiting = joined(dispatcher), joined(dispatcher, "b")
    dispatcher.changes()
    dispatcher.stands(b"a")
    dispatcher.refuse(PermissionError("no"))
    standing.take()
    with pytest.raises(PermissionError):
        waiting.take()
