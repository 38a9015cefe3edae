"""Retry a task after a countdown, with a reason that Flower shows."""

import time
from datetime import UTC, datetime
from typing import Any, Final

from celery import Task
from celery.exceptions import Reject

from tasks.api.retry import MAX_WAIT_S

#: Minimum seconds of a countdown whose end is shown as a time as well.
_SHOW_TIME_S: Final = 60.0


class ControlSignal(Exception):
    """Base class of exceptions that steer a task and do not report a bug."""


class Deferred(ControlSignal):
    """The task has to wait. Flower shows the reason and the countdown.

    ``countdown_s``: seconds until Celery runs the task again, at most `MAX_WAIT_S`.
    """

    def __init__(self, reason: str, countdown_s: float) -> None:
        super().__init__(reason, countdown_s)
        self.reason = reason
        self.countdown_s = round(min(countdown_s, MAX_WAIT_S), 3)
        self.at_s = time.time() + countdown_s

    def __str__(self) -> str:
        words = f"{self.reason}; again in {self.countdown_s:.3g} s"
        if self.countdown_s < _SHOW_TIME_S:
            return words
        at = datetime.fromtimestamp(self.at_s, UTC)
        return f"{words}, at {at:%Y-%m-%d %H:%M:%S} UTC"

    def __repr__(self) -> str:
        return f"Deferred({str(self)!r})"


def retry_later(task: "Task[Any, Any]", *, reason: str, countdown_s: float) -> Exception:
    """Send the task back to the queue as a retry; the caller raises the returned exception.

    ``countdown_s``: seconds until it runs again, at most `MAX_WAIT_S`. The task keeps its id and
    its place in a chain::

        raise retry_later(task, reason="rate_limit_error (HTTP 429)", countdown_s=15)
    """
    deferred = Deferred(reason, countdown_s)
    try:
        return task.retry(
            throw=False, exc=deferred, countdown=deferred.countdown_s, **_kept_options(task)
        )
    except Reject as rejected:  # Redis refused the message, and the reaper sends another one
        return Reject(rejected.args[0], requeue=False)  # without Celery's chain of tracebacks


def repeat(task: "Task[Any, Any]", countdown_s: float) -> None:
    """Send the task to the queue once more, with its id, its chain and its number of retries.

    Raises what the broker raises.
    """
    task.signature_from_request(
        task.request, countdown=countdown_s, retries=task.request.retries, **_kept_options(task)
    ).apply_async()


def _kept_options(task: "Task[Any, Any]") -> dict[str, Any]:
    return {
        # Celery would derive both from the arguments again and lose the kind and the model.
        "argsrepr": task.request.get("argsrepr"),
        "kwargsrepr": task.request.get("kwargsrepr"),
        "priority": (task.request.delivery_info or {}).get("priority") or 0,
    }
