"""Celery's thread pool, with the two things that it lacks: terminate and a quick shutdown.

A thread cannot be stopped from outside, so whoever runs long in one says how it can be asked to
end (`on_terminate`); Flower's terminate button and a shutdown then ask.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery.concurrency.base import apply_target
from celery.concurrency.thread import ApplyResult  # type: ignore[attr-defined]  # a stub's gap
from celery.concurrency.thread import TaskPool as ThreadPool

#: Thread → how to ask what runs in it to end.
_terminators: dict[int, Callable[[], None]] = {}
#: Called once when the worker shuts down, before it waits for its threads.
_on_shutdown: list[Callable[[], None]] = []


@contextmanager
def on_terminate(ask: Callable[[], None]) -> Iterator[None]:
    """While the block runs, `terminate` of this task calls ``ask`` (from another thread)."""
    thread = threading.get_ident()
    _terminators[thread] = ask
    try:
        yield
    finally:
        _terminators.pop(thread, None)


def on_shutdown(hook: Callable[[], None]) -> None:
    """Have ``hook`` called when the worker shuts down."""
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
        """Run a task in a thread; its ident stands where other pools give the process id."""
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
        """Ask the task that runs in thread ``pid`` to end. Called by revoke(terminate=True)."""
        ask = _terminators.get(pid)
        if ask is not None:
            ask()

    def on_stop(self) -> None:
        """A warm shutdown (SIGTERM): tell who wants to know, then wait for the threads."""
        for hook in _on_shutdown:
            hook()
        super().on_stop()
