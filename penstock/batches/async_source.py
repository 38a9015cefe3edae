"""Submits a batch job from an event loop without blocking it.

The synchronous client submits the job in a thread. The thread reads an async iterable through the
loop, a page at a time: a source that is faster than Redis has to wait, and a slower one blocks
nothing else on the loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

_Job = TypeVar("_Job")

#: Requests that the thread gets from the loop at a time: each switch takes about 100 µs.
PAGE: Final = 32


class SubmissionCanceled(Exception):
    """The call that submits the job was canceled."""


async def create_in_thread(
    create: Callable[..., _Job],
    requests: Iterable[Any] | AsyncIterable[Any],
    **options: Any,
) -> _Job:
    """Call ``create(requests=…, **options)`` in a thread.

    A call that is canceled before the last request is read leaves no job.
    """
    source: _Source = _Source(requests)
    if isinstance(requests, AsyncIterable):
        source = _LoopSource(requests, asyncio.get_running_loop())
    try:
        return await asyncio.to_thread(create, requests=source, **options)
    except asyncio.CancelledError:
        source.stop()
        raise


class _Source:
    """Requests that are read in a thread, until another thread stops it."""

    def __init__(self, requests: Any) -> None:
        self._requests = requests
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        for request in self._requests:
            if self._stopped.is_set():
                raise SubmissionCanceled
            yield request

    def stop(self) -> None:
        """Make the thread fail at its next request."""
        self._stopped.set()


class _LoopSource(_Source):
    """Requests of an async iterable, read on its event loop."""

    def __init__(self, requests: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._pages(aiter(requests)))
        self._loop = loop
        self._page: Future[list[Any]] | None = None

    def stop(self) -> None:
        """Also stop waiting for the loop."""
        super().stop()
        if self._page is not None:
            self._page.cancel()

    def _pages(self, requests: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            self._page = asyncio.run_coroutine_threadsafe(_page_of(requests), self._loop)
            if self._stopped.is_set():  # possibly before this page existed
                self._page.cancel()
            page = self._page.result()
            if not page:
                return
            yield from page


async def _page_of(requests: AsyncIterator[Any]) -> list[Any]:
    """Return the next requests; an empty list after the last one."""
    page: list[Any] = []
    async for request in requests:
        page.append(request)
        if len(page) == PAGE:
            break
    return page
