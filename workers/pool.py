"""Celery's thread pool with a bounded shutdown.

A thread cannot be stopped from outside. Long-running tasks therefore register a hook
(`on_shutdown`) that makes them return to the queue; each kind of shutdown calls it.

- A **warm** shutdown (SIGTERM, the first Ctrl-C, the remote command ``shutdown``) then waits until
  every task has ended. A later signal turns it into a cold one.
- A **cold** shutdown (SIGQUIT, the second Ctrl-C) waits at most `COLD_LIMIT_S` seconds. What has
  not ended by then ends with the process, and other workers repeat it as after a crash.
"""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Final

from celery.concurrency.base import apply_target
from celery.concurrency.thread import ApplyResult  # type: ignore[attr-defined]  # a stub's gap
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.platforms import EX_FAILURE
from celery.worker import state

logger = logging.getLogger(__name__)

#: Maximum seconds that a shutdown waits for running streams. Above the time in which they are
#: handed over, and below the 30 s of grace in the compose file.
SHUTDOWN_LIMIT_S: Final = 15.0
#: Maximum seconds that a cold shutdown waits for tasks of any kind.
COLD_LIMIT_S: Final = SHUTDOWN_LIMIT_S + 2
#: Seconds that Celery has for the rest of a cold shutdown if tasks have not ended.
EXIT_S: Final = 3.0
#: Seconds between two checks whether a signal has turned a warm shutdown into a cold one.
CHECK_S: Final = 0.2

#: Functions that begin to hand tasks over, and functions that free the threads of what is late.
_hand_over: list[Callable[[], None]] = []
_abandon: list[Callable[[], None]] = []


def on_shutdown(hand_over: Callable[[], None], abandon: Callable[[], None]) -> None:
    """Call ``hand_over`` when the worker shuts down, and ``abandon`` after `SHUTDOWN_LIMIT_S`.

    ``hand_over`` may be called more than once and from a signal handler, so it must not wait.
    """
    _hand_over.append(hand_over)
    _abandon.append(abandon)


class TaskPool(ThreadPool):
    """A thread pool whose tasks can be handed over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unfinished: set[Future[Any]] = set()

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
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return ApplyResult(future)

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Do nothing: a thread cannot be stopped, whatever the signal.

        ``revoke(terminate=True)`` calls this and then sends ``task_revoked``, which cancels the
        stream.
        """

    def hand_over(self) -> None:
        """Return what runs to the queue; does not wait."""
        for hook in _hand_over:
            hook()

    def on_stop(self) -> None:
        """Shut down warmly: hand over, then wait for the tasks.

        In a cold shutdown Celery calls this from its signal handler, which must not wait: the
        thread that it interrupted may hold a lock that a task needs. `on_terminate` follows.
        """
        self.hand_over()
        if not _is_cold():
            self._finish()

    def on_terminate(self) -> None:
        """Shut down coldly: hand over, then wait for the tasks, but not for long."""
        self.hand_over()
        self._finish()

    def _finish(self) -> None:
        """Wait until all tasks have ended; once the shutdown is cold, at most `COLD_LIMIT_S`."""
        # Tasks that have not begun are not acknowledged, and go back to the queue.
        self.executor.shutdown(  # type: ignore[attr-defined]  # a stub's gap
            wait=False, cancel_futures=True
        )
        try:
            self._wait()
        except BaseException:  # a third Ctrl-C or SIGQUIT
            _exit_after(0)
            raise
        if self._unfinished:
            logger.error(
                "%d tasks did not end within %.0f s; the process exits, and other workers repeat "
                "them as after a crash",
                len(self._unfinished),
                COLD_LIMIT_S,
            )
            _exit_after(EXIT_S)

    def _wait(self) -> None:
        waited_s, left_s = 0.0, COLD_LIMIT_S
        while self._unfinished and left_s > 0:
            wait(list(self._unfinished), CHECK_S)
            waited_s += CHECK_S
            if _is_cold():
                left_s -= CHECK_S
            if waited_s >= SHUTDOWN_LIMIT_S:
                for hook in _abandon:
                    hook()


def _is_cold() -> bool:
    return state.should_terminate not in (None, False)


def _exit_after(seconds: float) -> None:
    """End this process, whose threads Python would wait for."""
    timer = threading.Timer(seconds, os._exit, [EX_FAILURE])
    timer.daemon = True
    timer.start()
