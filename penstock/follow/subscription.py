"""Distributes what one pub/sub connection receives to all readers of the process. Pure.

A message is decoded once and added to the subscription of every reader of its channel. A
subscription is bounded: when a slow reader lets it overflow, it is emptied and marked, and its
reader uses the log instead. A slow reader loses time but no content, and delays no other one.
"""

import threading
from typing import Final, NamedTuple

from penstock import events
from penstock.events import Event

#: Maximum events in a subscription; beyond it the reader reads the log. 1,000 deltas are about 25 s
#: of a fast model. The log is read in pages of as many, so a larger limit would gain nothing.
SUBSCRIPTION_LIMIT: Final = 1_000


class Received(NamedTuple):
    """The content of a subscription."""

    events: list[Event]
    missed: bool  #: an event may have been published that is not among them: read the log


class Subscription:
    """Buffers the events of one channel for one reader, which may be in another thread."""

    def __init__(self, channel: str, limit: int = SUBSCRIPTION_LIMIT) -> None:
        self.channel = channel
        self._limit = limit
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._missed = False
        self._error: Exception | None = None

    def put(self, event: Event) -> None:
        """Add an event. A full subscription is emptied first, and marked."""
        with self._lock:
            first = not self._events and not self._missed
            if len(self._events) >= self._limit:
                self._events.clear()
                self._missed = True
            self._events.append(event)
        if first:  # a reader that was notified before takes everything at once
            self._notify()

    def mark_missed(self) -> None:
        """Mark that an event may be missing."""
        with self._lock:
            self._missed = True
        self._notify()

    def fail(self, error: Exception) -> None:
        """Make `take` raise ``error``: no further event will arrive."""
        with self._lock:
            self._error = error
        self._notify()

    def take(self) -> Received:
        """Empty the subscription. Raises the error that `fail` was given."""
        with self._lock:
            if self._error is not None:
                raise self._error
            received = Received(self._events, self._missed)
            self._events, self._missed = [], False
        return received

    def _notify(self) -> None:
        """Wake the reader. Readers in threads and on event loops do this differently."""


class Dispatcher:
    """Knows the channels, who reads them, and which subscriptions Redis has acknowledged."""

    def __init__(self) -> None:
        self._subscriptions: dict[bytes, set[Subscription]] = {}
        self._changed: set[bytes] = set()
        self._sent: set[bytes] = set()  # SUBSCRIBE has been sent
        self._acknowledged: set[bytes] = set()  # and Redis has acknowledged it

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions."""
        return [
            subscription
            for subscriptions in self._subscriptions.values()
            for subscription in subscriptions
        ]

    def join(self, subscription: Subscription) -> None:
        """Deliver to ``subscription`` from now on.

        It is marked once Redis has acknowledged its channel: what was published before is missing.
        """
        channel = subscription.channel.encode()
        self._subscriptions.setdefault(channel, set()).add(subscription)
        self._changed.add(channel)
        if channel in self._acknowledged:
            subscription.mark_missed()

    def leave(self, subscription: Subscription) -> bool:
        """Stop delivering to ``subscription``. Returns whether it was the last of all."""
        channel = subscription.channel.encode()
        subscriptions = self._subscriptions.get(channel, set())
        subscriptions.discard(subscription)
        if not subscriptions and self._subscriptions.pop(channel, None) is not None:
            self._changed.add(channel)
        return not self._subscriptions

    def changes(self) -> tuple[list[bytes], list[bytes]]:
        """The channels to subscribe to, and to unsubscribe from, since the last call."""
        added = [c for c in self._changed if c in self._subscriptions and c not in self._sent]
        dropped = [c for c in self._changed if c not in self._subscriptions and c in self._sent]
        self._changed.clear()
        self._sent.update(added)
        self._sent.difference_update(dropped)
        self._acknowledged.difference_update(dropped)
        return added, dropped

    def acknowledge(self, channel: bytes) -> None:
        """Note that Redis has acknowledged a channel. What was published before is missing."""
        subscriptions = self._subscriptions.get(channel)
        if subscriptions:
            self._acknowledged.add(channel)
            for subscription in subscriptions:
                subscription.mark_missed()

    def deliver(self, channel: bytes, line: bytes) -> None:
        """Add a message to all subscriptions of its channel."""
        subscriptions = self._subscriptions.get(channel)
        if not subscriptions:
            return
        try:
            event = events.decode(line)
        except ValueError:
            return  # any client may publish anything; only what is in the log counts
        for subscription in subscriptions:
            subscription.put(event)

    def disconnected(self) -> None:
        """Note that the connection is lost: every channel has to be subscribed to again."""
        self._sent.clear()
        self._acknowledged.clear()
        self._changed.update(self._subscriptions)

    def refuse(self, channel: bytes, error: Exception) -> None:
        """Fail the subscriptions of a channel that Redis has refused. A later one asks again."""
        self._sent.discard(channel)
        for subscription in self._subscriptions.get(channel, ()):
            subscription.fail(error)

    def fail_pending(self, error: Exception) -> None:
        """Fail the subscriptions that Redis has not acknowledged: it refuses the connection."""
        for channel, subscriptions in self._subscriptions.items():
            if channel not in self._acknowledged:
                for subscription in subscriptions:
                    subscription.fail(error)
