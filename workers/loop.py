"""The event loop of a worker process, in a thread of its own.

Every stream of the process runs on it; Celery's threads only wait for their stream to end. A worker
without a working loop renews no lease and would hold its tasks for ever, so it exits, and other
workers take over.
"""

import asyncio
import atexit
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two checks of the loop.
CHECK_S: Final = 1.0
#: Maximum checks in a row that the loop does not answer. Counted instead of timed: a process that
#: was stopped and continued, or a machine that slept, has not blocked its loop.
MAX_MISSED_CHECKS: Final = 60
#: Seconds until a task that failed is restarted; doubled for each failure in a row.
FIRST_RESTART_S: Final = 0.2
#: Maximum seconds to wait at the end of the process for the loop, and for its check, to end.
STOP_S: Final = 3.0
#: Maximum seconds until a task that failed is restarted.
MAX_RESTART_S: Final = 5.0
#: Seconds that a restarted task must run until its next failure counts as the first again.
STEADY_S: Final = 60.0
#: Maximum failures in a row of a task without which the process cannot run streams.
MAX_FAILURES: Final = 10


def exit_process(reason: str) -> None:
    """End this process at once, with exit code 1 and the stacks of all threads in its log.

    Its leases expire, and its messages are delivered again, as if it had been killed.
    """
    logger.critical("%s; the process exits, and other workers take over", reason)
    faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
    logging.shutdown()
    os._exit(1)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """An event loop in a daemon thread, started at its first use."""

    def __init__(self, on_dead: Callable[[str], None] = exit_process) -> None:
        """``on_dead`` is called with the reason once the loop has ended or is blocked."""
        self._on_dead = on_dead
        # Reentrant: a shutdown's signal handler runs in the main thread, which may hold it.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running event loop."""
        with self._lock:
            if self._loop is None:
                self._loop = _new_loop()
                for name, target in (("penstock-loop", self._run), ("penstock-check", self._check)):
                    thread = threading.Thread(
                        target=target, args=(self._loop,), name=name, daemon=True
                    )
                    thread.start()
                    self._threads.append(thread)
                # A loop written in C crashes if it is woken while the interpreter is finalized.
                atexit.register(self.stop)
            return self._loop

    def stop(self) -> None:
        """End the loop and its threads, waiting at most `STOP_S` seconds for each."""
        self._stopping.set()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join(STOP_S)

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run ``work`` on the loop; may be called from any thread. Returns its future."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        except BaseException:
            # A task that raises SystemExit or KeyboardInterrupt ends the loop of every stream.
            logger.exception("the event loop failed")
        if not self._stopping.is_set():
            self._on_dead("the event loop has ended")

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping.wait(CHECK_S):
            answered = threading.Event()
            loop.call_soon_threadsafe(answered.set)
            if not any(self._answered(answered) for _ in range(MAX_MISSED_CHECKS)):
                self._on_dead(f"the event loop has been blocked for {MAX_MISSED_CHECKS} s")
                return

    def _answered(self, answered: threading.Event) -> bool:
        return answered.wait(CHECK_S) or self._stopping.is_set()


class BackgroundTasks:
    """Holds tasks that nothing awaits: asyncio keeps only weak references to tasks."""

    def __init__(self, on_dead: Callable[[str], None] = exit_process) -> None:
        """``on_dead`` is called with the reason once an essential task keeps failing."""
        self._on_dead = on_dead
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work`` on the running event loop and hold it until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def keep(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, essential: bool = False
    ) -> None:
        """Start ``work``, which never ends, and restart it with growing pauses if it fails.

        ``name`` is for the log. The process ends if ``essential`` work fails `MAX_FAILURES` times
        in a row.
        """
        self.start(self._keep(name, work, essential))

    async def _keep(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], essential: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                await work()
                logger.error("%s has ended and is restarted", name)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                logger.exception("%s was canceled by an odd error and is restarted", name)
            except Exception:
                logger.exception("%s failed and is restarted", name)
            failures = 1 if loop.time() - began > STEADY_S else failures + 1
            if essential and failures >= MAX_FAILURES:
                self._on_dead(f"{name} failed {failures} times in a row")
                return
            await asyncio.sleep(min(FIRST_RESTART_S * 2 ** min(failures - 1, 10), MAX_RESTART_S))


#: The loop of this process.
streams_loop = LoopThread()
