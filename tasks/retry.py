"""Run a task again later, so that Flower shows why and when and still shows what it is."""

from typing import Any

from celery import Task


class ControlSignal(Exception):
    """Ends a task's work early, otherwise than by returning a result or by a bug."""


class Deferred(ControlSignal):
    """The task has to wait; it is run again after ``countdown_s``. Flower shows its `repr`."""

    def __init__(self, reason: str, countdown_s: float) -> None:
        super().__init__(reason, countdown_s)
        self.reason = reason
        self.countdown_s = countdown_s

    def __str__(self) -> str:
        return f"{self.reason}; again in {self.countdown_s:.3g} s"

    def __repr__(self) -> str:
        return f"Deferred({str(self)!r})"


def retry_later(task: "Task[Any, Any]", *, reason: str, countdown_s: float) -> Exception:
    """Send the task back to the queue by countdown; raise what this returns.

    The task keeps its id and its place in a chain.
    """
    countdown_s = round(countdown_s, 3)
    return task.retry(
        throw=False,
        exc=Deferred(reason, countdown_s),
        countdown=countdown_s,
        # Celery would make these anew from the arguments, and lose the kind and the model.
        argsrepr=task.request.get("argsrepr"),  # type: ignore[call-arg]
        kwargsrepr=task.request.get("kwargsrepr"),
        priority=(task.request.delivery_info or {}).get("priority") or 0,
    )
