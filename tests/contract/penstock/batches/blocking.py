"""`AsyncBatches` with the methods of `Batches`, so that one suite of tests covers both."""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Iterator
from types import TracebackType
from typing import Any, Self

from penstock.async_client import AsyncClient
from penstock.batches.async_pages import AsyncBatchPage
from penstock.batches.view import Batch
from tests.scripted import TIMEOUT_S

_END = object()


class BlockingBatches:
    """Runs an `AsyncClient` on an event loop in a thread, and blocks until a call returns.

    A context manager; leaving it checks that the client has left no task on its loop.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        self._client = AsyncClient(url, **settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event-loop")
        self._sources: list[AsyncGenerator[Any, None]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.run(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _close(self) -> None:
        for source in self._sources:
            await source.aclose()
        await self._client.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client.messages.batches, name)

        def call(*args: Any, **options: Any) -> Any:
            found: Any = method(*args, **options)
            return self._awaited(found) if inspect.isawaitable(found) else self.iterated(found)

        return call

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Await something on the loop; returns its result."""

        async def coroutine() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(coroutine(), self._loop).result(2 * TIMEOUT_S)

    def iterated(self, source: AsyncGenerator[Any, None]) -> Iterator[Any]:
        """Iterate over an async generator."""
        self._sources.append(source)
        while (item := self.run(anext(source, _END))) is not _END:
            yield item

    def _awaited(self, awaitable: Awaitable[Any]) -> Any:
        result = self.run(awaitable)
        return BlockingPage(self, result) if isinstance(result, AsyncBatchPage) else result


class BlockingPage:
    """`AsyncBatchPage` with the methods of `BatchPage`."""

    def __init__(self, batches: BlockingBatches, page: AsyncBatchPage) -> None:
        self._batches = batches
        self._page = page

    def __getattr__(self, name: str) -> Any:
        return getattr(self._page, name)

    def get_next_page(self) -> "BlockingPage":
        """Read the page after this one."""
        return BlockingPage(self._batches, self._batches.run(self._page.get_next_page()))

    def __iter__(self) -> Iterator[Batch]:
        jobs: Any = aiter(self._page)
        return self._batches.iterated(jobs)
