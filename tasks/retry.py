"""Run a task again later, so that Flower shows why and when and still shows what it is."""

from typing import Any

from celery import Task


class Deferred(Exception):
    """The task has to wait; it is run again later."""


def retry_later(task: "Task[Any, Any]", *, reason: str, countdown_s: float) -> Exception:
    """Send the task back to the queue by countdown; raise what this returns.

    The task keeps its id and its place in a chain.
    """
    countdown_s = round(countdown_s, 3)
    return task.retry(
        throw=False,
        exc=Deferred(f"{reason}; again in {countdown_s:.3g} s"),
        countdown=countdown_s,
        # Celery would make these anew from the arguments, and lose the kind and the model.
        argsrepr=task.request.get("argsrepr"),  # type: ignore[call-arg]
        kwargsrepr=task.request.get("kwargsrepr"),
        priority=(task.request.delivery_info or {}).get("priority") or 0,
    )
