"""The event loop of a worker process, in a thread of its own.

Every stream of the process runs on it; Celery's threads only wait for their stream to end.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """An event loop in a daemon thread, started at its first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running event loop."""
        with self._lock:
            if self._loop is None:
                self._loop = _new_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="penstock-loop", daemon=True
                ).start()
            return self._loop

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run ``work`` on the loop; may be called from any thread. Returns its future."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)


class BackgroundTasks:
    """Holds tasks that nothing awaits: asyncio keeps only weak references to tasks."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work`` on the running event loop and hold it until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


#: The loop of this process.
streams_loop = LoopThread()
