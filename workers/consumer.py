"""Celery's consumer, which waits for a Redis that is unavailable or refuses commands.

It asks every second, without limit. Tasks that run in this process are not affected.
"""

import logging
import time
from contextlib import suppress
from typing import Any, Final

from celery.utils import threads
from celery.worker import consumer as celery_consumer
from celery.worker import loops
from celery.worker.state import maybe_shutdown

from penstock.store.availability import outage

# The stubs of Celery lack most of what is used here.
_consumer: Any = celery_consumer
_threads: Any = threads

#: Seconds until Redis is asked again.
RETRY_S: Final = 1.0
#: Seconds without an error after which Redis counts as available again.
STEADY_S: Final = 1.0
#: Maximum seconds to wait for a reply while a lost connection is closed.
CLOSE_S: Final = 1.0
#: This part of the process in an `Outage`.
BROKER: Final = "broker"
#: Celery's loggers of each connection, which are quiet during an outage.
_CHATTY: Final = tuple(f"celery.worker.consumer.{name}" for name in ("connection", "mingle"))


def _is_news(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or not outage.affects(BROKER)


for _name in _CHATTY:
    logging.getLogger(_name).addFilter(_is_news)


class Consumer(_consumer.Consumer):  # type: ignore[misc]  # a gap of the stubs
    """The consumer of a worker."""

    connection: Any

    def loop(self, *args: Any) -> None:
        """Run Celery's event loop until the worker stops or an error of Redis ends it."""
        if self.hub is None:  # a pool of greenlets
            outage.end(BROKER)
            loops.synloop(*args)
        else:
            self.hub.call_later(STEADY_S, outage.end, BROKER)
            loops.asynloop(*args)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes. SIGTERM ends the wait."""
        connected = conn.ensure_connection(
            lambda error, _: outage.note(BROKER, error),
            max_retries=None,
            interval_start=RETRY_S,
            interval_step=0,
            interval_max=RETRY_S,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        return connected

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Log the error; Celery then connects again."""
        outage.note(BROKER, exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Log the error and close the connection; Celery then connects again."""
        again = outage.affects(BROKER)
        outage.note(BROKER, exc)
        connection, self.connection = self.connection, None
        # Closing reads from sockets on which no reply may arrive.
        _threads.bound_open_broker_sockets(connection, CLOSE_S)
        with suppress(Exception):
            connection.collect(socket_timeout=CLOSE_S)
        if again:  # Redis accepts connections and refuses what follows
            maybe_shutdown()
            time.sleep(RETRY_S)
