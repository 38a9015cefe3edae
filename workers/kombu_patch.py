"""A patch for kombu 5.7, so that a worker survives a restart of Redis.

If the connection is lost while a message is unacknowledged (a poll that waits for its countdown is
one), kombu's clean-up closes the channel. That tries to restore the message with a client built
from the closed connection: ``AttributeError: 'NoneType' … 'hostname'``. kombu does not expect this
error, so the worker's main process ends. Raised as a connection error, kombu's own recovery
applies: the message stays in ``unacked`` and is delivered again after the visibility timeout, when
its step is claimed or done.
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
            raise redis.ConnectionError("the connection to the broker is closed")
        return original(self, asynchronous)

    create_client.guarded = True  # type: ignore[attr-defined]
    Channel._create_client = create_client  # type: ignore[attr-defined]
