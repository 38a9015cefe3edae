"""The one event loop of a worker process, in a thread of its own.

Every stream of the process runs on it. Celery's threads only wait here for the end of theirs.
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
    """An event loop in a daemon thread, started when it is first used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        with self._lock:
            if self._loop is None:
                self._loop = _new_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="penstock-loop", daemon=True
                ).start()
            return self._loop

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start ``work`` on the loop from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)


class BackgroundTasks:
    """Keeps tasks that nothing waits for: asyncio itself holds only weak references to them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` on the running loop."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


#: The loop of this process.
streams_loop = LoopThread()
