"""Work that outlives its request, such as evaluating a batch's lines."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class BackgroundTasks:
    """The asyncio tasks of one simulator that no request waits for."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], str] = {}

    def start(self, work: Coroutine[Any, Any, Result], *, name: str = "") -> asyncio.Task[Result]:
        """Start a task and hold a reference to it, which the event loop does not."""
        task = asyncio.create_task(work)
        self._tasks[task] = name
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def wait_for(self, name: str) -> None:
        """Wait for all tasks with this name."""
        waiting = [task for task, its_name in self._tasks.items() if its_name == name]
        if waiting:
            await asyncio.wait(waiting)

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in list(self._tasks):
            task.cancel()
