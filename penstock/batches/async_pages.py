"""Pages of the list of jobs, for event loops."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from penstock.batches.pages import BatchPage
from penstock.batches.view import Batch


class AsyncBatchPage:
    """One page of the list of jobs, newest first; ``async for`` continues with the next pages."""

    def __init__(self, page: BatchPage) -> None:
        self._page = page
        self.data = page.data
        self.has_more = page.has_more
        self.first_id = page.first_id
        self.last_id = page.last_id

    def has_next_page(self) -> bool:
        """Return whether there is a page after this one."""
        return self._page.has_next_page()

    async def get_next_page(self) -> "AsyncBatchPage":
        """Read the page after this one."""
        return AsyncBatchPage(await asyncio.to_thread(self._page.get_next_page))

    async def __aiter__(self) -> AsyncIterator[Batch]:
        page = self
        while True:
            for batch in page.data:
                yield batch
            if not page.has_next_page():
                return
            page = await page.get_next_page()


class AsyncBatchList:
    """A list of jobs: ``await`` it for its first page, or iterate over all jobs."""

    def __init__(self, page: Callable[[], BatchPage]) -> None:
        self._page = page

    def __await__(self) -> Generator[Any, None, AsyncBatchPage]:
        return self._first().__await__()

    async def _first(self) -> AsyncBatchPage:
        return AsyncBatchPage(await asyncio.to_thread(self._page))

    async def __aiter__(self) -> AsyncIterator[Batch]:
        async for batch in await self._first():
            yield batch
