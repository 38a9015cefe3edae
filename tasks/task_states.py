"""States of tasks that Celery does not have, so that Flower shows how a task really ended.

Celery sends one event for each state, and knows only success, failure, retry and revocation. A
monitor turns the event ``task-canceled`` into the state ``CANCELED``. The task itself raises
`Ignore`, after which Celery sends nothing, logs nothing and stops the chain.
"""

import logging
from typing import Any, Final

from celery import Task
from celery.exceptions import Ignore, Reject

from tasks.retry import Deferred, repeat

logger = logging.getLogger(__name__)

#: The stream or the job was canceled.
CANCELED: Final = "canceled"
#: The wake-up was a duplicate, or its work is done or gone.
SKIPPED: Final = "skipped"
#: The job is paused; a new chain follows when it is resumed.
PAUSED: Final = "paused"
#: Nothing failed: the task runs again later, under the same id.
WAITING: Final = "waiting"


def end_as(
    task: "Task[Any, Any]", state: str, summary: dict[str, Any], runtime_s: float | None = None
) -> Exception:
    """End a task in one of the states above; the caller raises the returned exception.

    ``summary`` is what Flower shows as the result::

        raise end_as(task, SKIPPED, {"reason": "a duplicate"})
    """
    more: dict[str, Any] = {} if runtime_s is None else {"runtime": runtime_s}
    try:
        task.send_event(f"task-{state}", retry=False, result=repr(shown(summary)), **more)
    except Exception as error:  # Flower is the only reader of events
        logger.warning("the state %s of %s was not sent: %s", state, task.request.id, error)
    return Ignore()


def shown(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what Flower shows as the result of a task.

    Its list shows the first characters only, and the kind and the state in columns of their own.
    """
    return {name: value for name, value in summary.items() if name not in ("kind", "state")}


def wait_later(task: "Task[Any, Any]", *, reason: str, countdown_s: float) -> Exception:
    """Send the task back to the queue, as `retry_later` does, but not as a retry.

    A batch is polled hundreds of times and nothing has failed, so neither the number of retries nor
    ``task-retried`` counts it. The caller raises the returned exception.
    """
    deferred = Deferred(reason, countdown_s)
    try:
        repeat(task, deferred.countdown_s)
    except Exception as error:
        return Reject(error, requeue=False)  # as Celery's retry; the reaper wakes it
    return end_as(task, WAITING, {"reason": str(deferred)})
