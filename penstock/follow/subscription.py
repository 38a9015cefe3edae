"""Hands what one pub/sub connection receives to everybody in the process who wants it; pure.

A message is decoded once and put into the mailbox of every reader of its channel. A mailbox is
bounded: when a slow reader lets it overflow, it is emptied and marked, and the reader fills the
gap from the log. So a slow reader loses time and never content, and nobody else waits for it.
"""

import threading
from typing import Final, NamedTuple

from penstock import events
from penstock.events import Event

#: Events that a mailbox holds before its reader is sent to the log. 1,000 deltas are about
#: 25 s of a fast model; the log hands them out by the page, so there is no use in more.
SUBSCRIPTION_LIMIT: Final = 1_000


class Received(NamedTuple):
    """What a mailbox held."""

    events: list[Event]
    missed: bool  #: something may have been published that is not among them: read the log


class Subscription:
    """The events of one channel on their way to one reader, who may be in another thread."""

    def __init__(self, channel: str, limit: int = SUBSCRIPTION_LIMIT) -> None:
        self.channel = channel
        self._limit = limit
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._missed = False
        self._error: Exception | None = None

    def put(self, event: Event) -> None:
        """Add an event; a full box is emptied and marked."""
        with self._lock:
            first = not self._events and not self._missed
            if len(self._events) >= self._limit:
                self._events.clear()
                self._missed = True
            self._events.append(event)
        if first:  # whoever was told already takes everything at once
            self._notify()

    def miss(self) -> None:
        """Mark that something may be missing."""
        with self._lock:
            self._missed = True
        self._notify()

    def fail(self, error: Exception) -> None:
        """Nothing will come any more: have `take` raise ``error``."""
        with self._lock:
            self._error = error
        self._notify()

    def take(self) -> Received:
        """Empty the box. Raises what `fail` was given."""
        with self._lock:
            if self._error is not None:
                raise self._error
            received = Received(self._events, self._missed)
            self._events, self._missed = [], False
        return received

    def _notify(self) -> None:
        """Wake the reader; the two kinds of readers each have their own way."""


class Dispatcher:
    """Which channels are wanted, which stand, and who reads them."""

    def __init__(self) -> None:
        self._boxes: dict[bytes, set[Subscription]] = {}
        self._changed: set[bytes] = set()
        self._sent: set[bytes] = set()  # subscribed to, as far as we have sent
        self._standing: set[bytes] = set()  # subscribed to, as Redis has acknowledged

    @property
    def boxes(self) -> list[Subscription]:
        """All mailboxes."""
        return [box for boxes in self._boxes.values() for box in boxes]

    def join(self, box: Subscription) -> None:
        """Deliver to ``box`` from now on. It is marked as soon as the subscription stands."""
        channel = box.channel.encode()
        self._boxes.setdefault(channel, set()).add(box)
        self._changed.add(channel)
        if channel in self._standing:
            box.miss()

    def leave(self, box: Subscription) -> bool:
        """Deliver no more to ``box``; returns whether it was the last one of all."""
        channel = box.channel.encode()
        boxes = self._boxes.get(channel, set())
        boxes.discard(box)
        if not boxes and self._boxes.pop(channel, None) is not None:
            self._changed.add(channel)
        return not self._boxes

    def changes(self) -> tuple[list[bytes], list[bytes]]:
        """What to subscribe to and what to unsubscribe from, to be sent now."""
        added = [c for c in self._changed if c in self._boxes and c not in self._sent]
        dropped = [c for c in self._changed if c not in self._boxes and c in self._sent]
        self._changed.clear()
        self._sent.update(added)
        self._sent.difference_update(dropped)
        self._standing.difference_update(dropped)
        return added, dropped

    def stands(self, channel: bytes) -> None:
        """Redis has acknowledged a subscription. What was published before it has been missed."""
        boxes = self._boxes.get(channel)
        if boxes:
            self._standing.add(channel)
            for box in boxes:
                box.miss()

    def deliver(self, channel: bytes, line: bytes) -> None:
        """Put a message into all mailboxes of its channel."""
        boxes = self._boxes.get(channel)
        if not boxes:
            return
        try:
            event = events.decode(line)
        except ValueError:
            return  # anybody may publish anything; what is not in the log is not an event
        for box in boxes:
            box.put(event)

    def cut(self) -> None:
        """The connection is gone: everything has to be subscribed to anew."""
        self._sent.clear()
        self._standing.clear()
        self._changed.update(self._boxes)

    def refuse(self, error: Exception) -> None:
        """Redis has refused to subscribe: tell those who still wait for it."""
        for channel, boxes in self._boxes.items():
            if channel not in self._standing:
                for box in boxes:
                    box.fail(error)
