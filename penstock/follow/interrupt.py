"""Ends a reader from another thread or task, while it waits for an event."""

from penstock.follow.subscription import Subscription


class Interrupted(Exception):
    """The reader was interrupted; it ends without an error."""


class Interrupt:
    """Called to end one reader. It may be called before, during and after the reading.

    A generator that is running cannot be closed from elsewhere: Python raises an error instead.
    """

    def __init__(self) -> None:
        self.called = False
        self._subscription: Subscription | None = None

    def __call__(self) -> None:
        """End the reader: at once if it waits, else before its next read or wait."""
        self.called = True
        if self._subscription is not None:
            self._subscription.fail(Interrupted())

    def attach(self, subscription: Subscription) -> None:
        """Interrupt the waits of ``subscription``, also if the call came first."""
        self._subscription = subscription
        if self.called:
            subscription.fail(Interrupted())
