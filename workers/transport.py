"""kombu's Redis transport with one rule: every error from Redis is one of the connection.

kombu 5.7 recovers from errors of the connection. Others end the worker's main process: a replica's
READONLY, a full Redis, a missing permission. Here all of them lead to the same recovery: the
connection is closed, and `workers.consumer` connects again once Redis accepts writes.
"""

import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

import redis
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual as kombu_virtual

from penstock.store.availability import CONNECTION_LOST
from workers.shutdown import shutdown

logger = logging.getLogger(__name__)

# The stubs of kombu lack most of what is used here.
_redis: Any = kombu_redis
_virtual: Any = kombu_virtual

#: What kombu recovers from by connecting again.
CONNECTION_ERRORS: Final[tuple[type[Exception], ...]] = (
    *_redis.Transport.connection_errors,
    redis.RedisError,
)
#: What a command may raise.
_REFUSALS: Final = (redis.RedisError, OSError)


def install() -> None:
    """Use this transport for ``redis://`` and ``rediss://`` in this process. Idempotent."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


class QoS(_redis.QoS):  # type: ignore[misc]  # a gap of the stubs
    """Tracks unacknowledged messages, and loses none if Redis refuses that."""

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """Yield a pipeline without MULTI, in which a full Redis refuses every command."""
        if pipe is not None:
            yield pipe
            return
        with self.channel.conn_or_acquire(client) as connection:
            yield connection.pipeline(transaction=False)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Track a message that was taken from its queue.

        One that Redis does not track is delivered all the same: it is in no queue any more. If this
        process is lost, the reaper sends its record another wake-up.
        """
        try:
            super().append(message, delivery_tag)
        except _REFUSALS as error:
            _virtual.QoS.append(self, message, delivery_tag)
            self.channel.refused = error

    def ack(self, delivery_tag: str) -> None:
        """Forget a message whose task has started.

        If Redis refuses, it delivers the message again after the visibility timeout, to a task that
        finds its work claimed or done.
        """
        try:
            super().ack(delivery_tag)
        except _REFUSALS as error:
            _virtual.QoS.ack(self, delivery_tag)
            self.channel.refused = error


class Channel(_redis.Channel):  # type: ignore[misc]  # a gap of the stubs
    """A channel that outlives refused commands, unreadable messages and its connection."""

    QoS = QoS

    #: Why a message could not be tracked. No further one is taken before Redis accepts writes.
    refused: Exception | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Raises redis-py's error if Redis does not accept the writes of a worker."""
        shutdown.interrupt()
        super().__init__(*args, **kwargs)
        try:
            with self.conn_or_acquire() as client:
                # Changes nothing: there is no such member, and XX adds none.
                client.zadd(self.unacked_index_key, {"": 0}, xx=True)
        except Exception:
            self.connection.cycle.discard(self)
            self._disconnect_pools()
            raise

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield a client; in a shutdown, only as long as Redis answers."""
        if shutdown.silent:
            raise redis.ConnectionError("Redis does not answer, and this worker shuts down")
        try:
            with super().conn_or_acquire(client) as connection:
                yield connection
        except CONNECTION_LOST:
            shutdown.note_silence()
            raise

    def _create_client(self, asynchronous: bool = False) -> Any:
        # At the end of a lost connection kombu restores messages with a client built from it, which
        # raises AttributeError. They stay in ``unacked`` until the visibility timeout.
        if getattr(self.connection, "client", None) is None:
            raise redis.ConnectionError("the connection to the broker is closed")
        return super()._create_client(asynchronous)

    def _brpop_start(self, timeout: float | None = None) -> None:
        if self.refused is not None:
            error, self.refused = self.refused, None
            raise error
        super()._brpop_start(timeout)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except CONNECTION_ERRORS as error:
            if not isinstance(error, KeyError):
                if isinstance(error, CONNECTION_LOST):
                    shutdown.note_silence()
                if self._closing:
                    raise queue.Empty from error  # `close` has more to do
                raise
            self._skip("queue", error)
        except queue.Empty:
            raise
        except Exception as error:
            self._skip("queue", error)

    def _receive(self) -> Any:
        try:
            return super()._receive()
        except Exception as error:
            if isinstance(error, (*_REFUSALS, queue.Empty)):
                raise
            self._skip("control channel", error)

    def _skip(self, where: str, error: Exception) -> NoReturn:
        # Without its content: it may be a prompt that another program sent by mistake.
        name = type(error).__name__
        logger.error("a message of the %s was dropped: it is not Celery's (%s)", where, name)
        raise queue.Empty from error

    def close(self) -> None:
        """Close the channel, whatever Redis answers to that."""
        if shutdown.silent:
            self._in_poll = None  # no reply to wait for
        try:
            super().close()
        except _REFUSALS:
            with suppress(*_REFUSALS):
                _virtual.Channel.close(self)
            self._close_clients()
            if self.connection is not None:
                self.connection.close_channel(self)
        finally:
            self._disconnect_pools()


class Transport(_redis.Transport):  # type: ignore[misc]  # a gap of the stubs
    """Redis as the broker of a worker."""

    Channel = Channel
    connection_errors = CONNECTION_ERRORS
