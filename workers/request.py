"""What the worker's main process knows of a task that it runs."""

from typing import Any

from celery import Task
from celery.worker.request import Request


class HandedOverRequest(Request):
    """A task that a shutdown hands over.

    Celery ends a running task for two reasons, and calls the pool in the same way: an operator
    terminates it (`terminate`), or a cold shutdown needs its place (`cancel`). Only the first may
    cancel a stream.
    """

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Hand over instead of ending the task, which then reports itself that it runs again."""
        pool.hand_over()


class HandedOverTask(Task):  # type: ignore[type-arg]
    """The base class of all tasks."""

    abstract = True
    Request = "workers.request:HandedOverRequest"
