"""Subscriptions and their dispatcher: which reader gets which event."""

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
    subscription = Subscription(channel, limit)
    dispatcher.join(subscription)
    return subscription


def test_a_subscription_returns_its_events_once_and_in_order() -> None:
    subscription = Subscription("a")
    for n in (1, 2, 3):
        subscription.put(event(n))
    assert subscription.take() == Received([event(1), event(2), event(3)], missed=False)
    assert subscription.take() == Received([], missed=False)


def test_a_full_subscription_is_emptied_and_marked() -> None:
    subscription = Subscription("a", limit=3)
    for n in range(1, 6):
        subscription.put(event(n))
    assert subscription.take() == Received([event(4), event(5)], missed=True)
    subscription.put(event(6))
    assert subscription.take() == Received([event(6)], missed=False)


def test_a_failed_subscription_raises_its_error() -> None:
    subscription = Subscription("a")
    subscription.fail(ZeroDivisionError())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            subscription.take()


def test_a_channel_is_subscribed_to_once_for_all_its_readers(dispatcher: Dispatcher) -> None:
    subscriptions = [joined(dispatcher) for _ in range(3)]
    assert dispatcher.changes() == ([b"a"], [])
    assert dispatcher.changes() == ([], [])
    assert [dispatcher.leave(subscription) for subscription in subscriptions[:2]] == [False, False]
    assert dispatcher.changes() == ([], [])
    assert dispatcher.leave(subscriptions[2])
    assert dispatcher.changes() == ([], [b"a"])


def test_a_reader_that_leaves_before_the_next_change_is_never_subscribed(
    dispatcher: Dispatcher,
) -> None:
    assert dispatcher.leave(joined(dispatcher))
    assert dispatcher.changes() == ([], [])


def test_readers_are_notified_when_redis_acknowledges_their_subscription(
    dispatcher: Dispatcher,
) -> None:
    first, other = joined(dispatcher), joined(dispatcher, "b")
    dispatcher.changes()
    assert not first.take().missed
    dispatcher.acknowledge(b"a")
    assert first.take().missed
    assert not other.take().missed
    assert joined(dispatcher).take().missed  # it is acknowledged already
    assert not first.take().missed


def test_a_channel_to_be_unsubscribed_does_not_count_as_acknowledged(
    dispatcher: Dispatcher,
) -> None:
    subscription = joined(dispatcher)
    dispatcher.changes()
    dispatcher.acknowledge(b"a")
    dispatcher.leave(subscription)
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
def test_a_message_that_is_not_an_event_is_not_delivered(
    dispatcher: Dispatcher, garbage: bytes
) -> None:
    subscription = joined(dispatcher)
    dispatcher.deliver(b"a", garbage)
    assert subscription.take() == Received([], missed=False)


def test_after_a_lost_connection_every_channel_is_subscribed_again(dispatcher: Dispatcher) -> None:
    subscriptions = [joined(dispatcher, name) for name in "abc"]
    dispatcher.changes()
    for name in (b"a", b"b", b"c"):
        dispatcher.acknowledge(name)
    dispatcher.leave(subscriptions[2])
    dispatcher.disconnected()
    added, dropped = dispatcher.changes()
    assert (sorted(added), dropped) == ([b"a", b"b"], [])
    for subscription in subscriptions[:2]:
        subscription.take()
    dispatcher.acknowledge(b"a")
    assert [subscription.take().missed for subscription in subscriptions[:2]] == [True, False]


def test_a_refusal_reaches_only_readers_without_an_acknowledged_subscription(
    dispatcher: Dispatcher,
) -> None:
    standing, waiting = joined(dispatcher), joined(dispatcher, "b")
    dispatcher.changes()
    dispatcher.acknowledge(b"a")
    dispatcher.fail_pending(PermissionError("no"))
    standing.take()
    with pytest.raises(PermissionError):
        waiting.take()
