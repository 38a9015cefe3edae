"""Celery's remote control commands that have no meaning for these workers.

Each answers with an error that names what to use instead; Flower shows it.
"""

from collections.abc import Callable
from typing import Any, Final

from celery.worker.control import Panel

_SIZE: Final = "the size of the pool is fixed: start another worker, or set --concurrency"
_RENEW: Final = (
    "the worker has no child processes: start another worker and send SIGTERM to this one"
)

REFUSED: Final = {
    "pool_grow": _SIZE,
    "pool_shrink": _SIZE,
    "autoscale": _SIZE,
    "pool_restart": _RENEW,
    "time_limit": (
        "a thread cannot be stopped: PENSTOCK_STREAM_TOTAL_TIMEOUT_S bounds a call, and the "
        "deadline of a request its time in the queue"
    ),
}


def install() -> None:
    """Replace Celery's commands, in workers only. Their names and arguments remain."""
    for name, why in REFUSED.items():
        Panel.data[name] = _refusing(why)
    Panel.data["add_consumer"] = _known_queues_only(Panel.data["add_consumer"])


def _refusing(why: str) -> Callable[..., dict[str, str]]:
    return lambda _state, **_: {"error": why}


def _known_queues_only(add_consumer: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a queue that does not exist: nothing would ever be sent to it."""

    def checked(state: Any, queue: str, **options: Any) -> Any:
        queues = state.app.amqp.queues
        if queue not in queues:
            return {"error": f"there is no queue {queue!r}; use {' or '.join(queues)}"}
        return add_consumer(state, queue, **options)

    return checked
