"""Celery's thread pool with two more features: terminate and a quick shutdown.

A thread cannot be stopped from outside. A long-running task therefore registers a function that
asks it to end (`on_terminate`); Flower's terminate button and a shutdown call such functions.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery.concurrency.base import apply_target
from celery.concurrency.thread import ApplyResult  # type: ignore[attr-defined]  # a stub's gap
from celery.concurrency.thread import TaskPool as ThreadPool

#: Thread → function that asks its task to end.
_terminators: dict[int, Callable[[], None]] = {}
#: Functions to call at shutdown, before the worker waits for its threads.
_on_shutdown: list[Callable[[], None]] = []


@contextmanager
def on_terminate(ask: Callable[[], None]) -> Iterator[None]:
    """Call ``ask``, from another thread, if this task is terminated in the block."""
    thread = threading.get_ident()
    _terminators[thread] = ask
    try:
        yield
    finally:
        _terminators.pop(thread, None)


def on_shutdown(hook: Callable[[], None]) -> None:
    """Call ``hook`` when the worker shuts down."""
    _on_shutdown.append(hook)


class TaskPool(ThreadPool):
    """A thread pool whose tasks can be terminated."""

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> ApplyResult:
        """Run a task in a thread, whose ident takes the place of a process id."""
        future = self.executor.submit(  # type: ignore[attr-defined]  # a stub's gap
            apply_target,
            target,
            args,
            kwargs,
            callback,
            accept_callback,
            getpid=threading.get_ident,
        )
        return ApplyResult(future)

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Ask the task in thread ``pid`` to end. Called by ``revoke(terminate=True)``."""
        ask = _terminators.get(pid)
        if ask is not None:
            ask()

    def on_stop(self) -> None:
        """Shut down warmly (SIGTERM): call the hooks, then wait for the threads."""
        for hook in _on_shutdown:
            hook()
        super().on_stop()
