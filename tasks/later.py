"""Run a task again later, so that Flower shows why and when and still shows what it is."""

from typing import Any, NoReturn

from celery import Task


class NotNow(Exception):
    """The task has to wait; it is run again later."""


def retry_later(task: "Task[Any, Any]", *, reason: str, countdown_s: float) -> NoReturn:
    """Send the task back to the queue by countdown; it keeps its id and its place in a chain."""
    raise task.retry(
        exc=NotNow(f"{reason}; again in {countdown_s:.3g} s"),
        countdown=countdown_s,
        # Celery would make these anew from the arguments, and lose the kind and the model.
        argsrepr=task.request.get("argsrepr"),  # type: ignore[call-arg]
        kwargsrepr=task.request.get("kwargsrepr"),
    )
