"""Work that outlives the request which began it, such as judging the lines of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class BackgroundTasks:
    """The tasks of one simulator that no request waits for."""

    def __init__(self) -> None:
        """Begin with none."""
        self._tasks: dict[asyncio.Task[Any], str] = {}

    def start(self, work: Coroutine[Any, Any, Result], *, name: str = "") -> asyncio.Task[Result]:
        """Begin some work; the loop alone would not keep it from being collected."""
        task = asyncio.create_task(work)
        self._tasks[task] = name
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def wait_for(self, name: str) -> None:
        """Wait for all work of a name."""
        waiting = [task for task, its_name in self._tasks.items() if its_name == name]
        if waiting:
            await asyncio.wait(waiting)

    def cancel(self) -> None:
        """Stop all work."""
        for task in list(self._tasks):
            task.cancel()
