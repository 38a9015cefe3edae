"""A guard for kombu 5.7: a worker must live through a restart of Redis.

When the connection is lost while a message is unacknowledged (a poll that waits for its
countdown is one), kombu's clean-up closes the channel, which tries to restore the message with
a client built from a connection that is gone: ``AttributeError: 'NoneType' … 'hostname'``. That
error is not among those it expects, so the worker's main process ends. Raised as the connection
error that it is, kombu's own recovery does the rest: the message stays in ``unacked`` and comes
back after the visibility timeout, to find its step claimed or done.
"""

from typing import Any

import redis
from kombu.transport.redis import Channel


def install() -> None:
    """Make a channel without a connection raise `redis.ConnectionError`. Idempotent."""
    original = Channel._create_client  # type: ignore[attr-defined]  # private, see above
    if getattr(original, "guarded", False):
        return

    def create_client(self: Any, asynchronous: bool = False) -> Any:
        connection = getattr(self, "connection", None)
        if connection is None or getattr(connection, "client", None) is None:
            raise redis.ConnectionError("the broker connection is gone")
        return original(self, asynchronous)

    create_client.guarded = True  # type: ignore[attr-defined]
    Channel._create_client = create_client  # type: ignore[attr-defined]
