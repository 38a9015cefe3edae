"""Requests for a batch job from an event loop: read in a thread, without holding up the loop.

The job is submitted by the synchronous client in a thread. That thread asks for requests a page at
a time, so a source that is faster than Redis waits, and one that is slower holds nobody up.
"""

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

_Job = TypeVar("_Job")

#: Requests that a thread asks the loop for at once: a hop between the two takes some 100 µs.
PAGE: Final = 32


class SubmissionCanceled(Exception):
    """Whoever waited for the job has been canceled."""


async def create_in_thread(
    create: Callable[..., _Job],
    requests: Iterable[Any] | AsyncIterable[Any],
    **options: Any,
) -> _Job:
    """Call ``create(requests=…, **options)`` in a thread. Canceled before the last request is
    read, it leaves no job."""
    source: _Source = _Source(requests)
    if isinstance(requests, AsyncIterable):
        source = _LoopSource(requests, asyncio.get_running_loop())
    try:
        return await asyncio.to_thread(create, requests=source, **options)
    except asyncio.CancelledError:
        source.stop()
        raise


class _Source:
    """Requests that are read in a thread, until another one stops them."""

    def __init__(self, requests: Any) -> None:
        self._requests = requests
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        for request in self._requests:
            if self._stopped.is_set():
                raise SubmissionCanceled
            yield request

    def stop(self) -> None:
        """Let the next request be the last one, and not used."""
        self._stopped.set()


class _LoopSource(_Source):
    """Requests that an event loop makes."""

    def __init__(self, requests: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._pages(aiter(requests)))
        self._loop = loop
        self._page: Future[list[Any]] | None = None

    def stop(self) -> None:
        """Wait for no more requests either."""
        super().stop()
        if self._page is not None:
            self._page.cancel()

    def _pages(self, requests: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            self._page = asyncio.run_coroutine_threadsafe(_page_of(requests), self._loop)
            if self._stopped.is_set():  # by one who may not have seen this page
                self._page.cancel()
            page = self._page.result()
            if not page:
                return
            yield from page


async def _page_of(requests: AsyncIterator[Any]) -> list[Any]:
    """The next requests; empty behind the last one."""
    page: list[Any] = []
    async for request in requests:
        page.append(request)
        if len(page) == PAGE:
            break
    return page
