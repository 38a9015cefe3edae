"""A consumer that drops a message it cannot read, instead of ending the worker.

Any program with access to the queue can send such a message. kombu and Celery expect some faults
(an unknown task, a body that is not JSON); others, such as headers of another type, are errors of
Python, at which the main process ends. The message then returns to the queue and ends the next
worker. Nothing is lost with it: a message is only a wake-up, and the reaper sends another one.
"""

import logging
from collections.abc import Callable
from typing import Any

import redis
from celery.worker.consumer import Consumer
from kombu.exceptions import KombuError
from kombu.transport import redis as transport

logger = logging.getLogger(__name__)

#: Errors that are not the fault of a message. kombu and Celery handle them.
_OF_THE_BROKER = (redis.RedisError, OSError, KombuError)


class TolerantConsumer(Consumer):
    """Acknowledges a message whose fault Celery does not expect. The setting `worker_consumer`."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """Return what handles each message of the queues."""
        handle = super().create_task_handler(*args, **options)

        def on_task_received(message: Any) -> Any:
            try:
                return handle(message)
            except _OF_THE_BROKER:
                raise
            except Exception as error:
                _report(error)
                message.ack_log_error(logger, _OF_THE_BROKER)

        return on_task_received


def install() -> None:
    """Let kombu drop what is not a message at all. Idempotent."""
    kombu: Any = transport  # whose stubs do not have what is replaced here
    deliver: Callable[..., Any] = kombu.Transport._deliver
    if getattr(deliver, "tolerant", False):
        return
    loads: Callable[[str], Any] = kombu.loads

    def tolerant_loads(text: str) -> Any:
        try:
            return loads(text)
        except (ValueError, RecursionError):
            return None  # which cannot be delivered either

    def tolerant_deliver(self: Any, message: Any, queue: str) -> None:
        try:
            deliver(self, message, queue)
        except redis.DataError as error:  # the message has no tag
            _report(error)
        except _OF_THE_BROKER:
            raise
        except Exception as error:
            _report(error)

    tolerant_deliver.tolerant = True  # type: ignore[attr-defined]
    kombu.Transport._deliver = tolerant_deliver
    kombu.loads = tolerant_loads


def _report(error: Exception) -> None:
    # Without the message's text, which may be anything.
    logger.error("a message that cannot be read was dropped (%s)", type(error).__name__)
