"""Mailboxes and their fanout: who gets what, and what is told to whom."""

import pytest

from penstock import events
from penstock.events import Event
from penstock.follow.subscription import Fanout, Mail, Mailbox


def event(n: int) -> Event:
    return Event(1, n, {"type": "x"})


def line(n: int) -> bytes:
    return events.encode(1, n, {"type": "x"})


@pytest.fixture
def fanout() -> Fanout:
    return Fanout()


def joined(fanout: Fanout, channel: str = "a", limit: int = 1000) -> Mailbox:
    box = Mailbox(channel, limit)
    fanout.join(box)
    return box


def test_a_mailbox_gives_what_was_put_in_once_and_in_order() -> None:
    box = Mailbox("a")
    for n in (1, 2, 3):
        box.put(event(n))
    assert box.take() == Mail([event(1), event(2), event(3)], missed=False)
    assert box.take() == Mail([], missed=False)


def test_a_full_mailbox_is_emptied_and_says_that_something_was_missed() -> None:
    box = Mailbox("a", limit=3)
    for n in range(1, 6):
        box.put(event(n))
    assert box.take() == Mail([event(4), event(5)], missed=True)
    box.put(event(6))
    assert box.take() == Mail([event(6)], missed=False)


def test_a_mailbox_that_was_failed_raises_to_whoever_takes() -> None:
    box = Mailbox("a")
    box.fail(ZeroDivisionError())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            box.take()


def test_a_channel_is_subscribed_to_once_for_all_its_readers(fanout: Fanout) -> None:
    boxes = [joined(fanout) for _ in range(3)]
    assert fanout.changes() == ([b"a"], [])
    assert fanout.changes() == ([], [])
    assert [fanout.leave(box) for box in boxes[:2]] == [False, False]
    assert fanout.changes() == ([], [])
    assert fanout.leave(boxes[2])
    assert fanout.changes() == ([], [b"a"])


def test_a_reader_that_comes_and_goes_between_two_looks_is_never_subscribed(
    fanout: Fanout,
) -> None:
    assert fanout.leave(joined(fanout))
    assert fanout.changes() == ([], [])


def test_readers_are_told_when_their_subscription_stands(fanout: Fanout) -> None:
    first, other = joined(fanout), joined(fanout, "b")
    fanout.changes()
    assert not first.take().missed
    fanout.stands(b"a")
    assert first.take().missed
    assert not other.take().missed
    assert joined(fanout).take().missed  # it stands already
    assert not first.take().missed


def test_a_subscription_is_not_relied_on_once_it_is_to_be_dropped(fanout: Fanout) -> None:
    box = joined(fanout)
    fanout.changes()
    fanout.stands(b"a")
    fanout.leave(box)
    fanout.changes()
    again = joined(fanout)
    assert not again.take().missed
    assert fanout.changes() == ([b"a"], [])


def test_a_message_reaches_the_readers_of_its_channel_as_the_same_event(fanout: Fanout) -> None:
    first, second, other = joined(fanout), joined(fanout), joined(fanout, "b")
    fanout.deliver(b"a", line(7))
    (one,), (two,) = first.take().events, second.take().events
    assert one == event(7)
    assert one is two
    assert other.take().events == []


@pytest.mark.parametrize("garbage", [b"", b"hello?", b"{}", b'{"e":1,"n":"1","data":{}}'])
def test_what_is_no_event_is_not_delivered(fanout: Fanout, garbage: bytes) -> None:
    box = joined(fanout)
    fanout.deliver(b"a", garbage)
    assert box.take() == Mail([], missed=False)


def test_behind_a_cut_everything_is_subscribed_to_anew(fanout: Fanout) -> None:
    boxes = [joined(fanout, name) for name in "abc"]
    fanout.changes()
    for name in (b"a", b"b", b"c"):
        fanout.stands(name)
    fanout.leave(boxes[2])
    fanout.cut()
    added, dropped = fanout.changes()
    assert (sorted(added), dropped) == ([b"a", b"b"], [])
    for box in boxes[:2]:
        box.take()
    fanout.stands(b"a")
    assert [box.take().missed for box in boxes[:2]] == [True, False]


def test_a_refusal_reaches_only_those_who_wait_for_their_subscription(fanout: Fanout) -> None:
    standing, waiting = joined(fanout), joined(fanout, "b")
    fanout.changes()
    fanout.stands(b"a")
    fanout.refuse(PermissionError("no"))
    standing.take()
    with pytest.raises(PermissionError):
        waiting.take()
