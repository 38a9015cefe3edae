"""``client.messages.batches`` for event loops: the same calls with ``await`` and ``async for``.

Events are read natively. Calls, and the lines of a shard, run the synchronous code in a thread, a
thousand lines at a time: unpacking them is work for a CPU, and the loop goes on meanwhile.
"""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import aclosing
from itertools import islice
from typing import Any

import orjson

from penstock import events
from penstock.batches.async_source import create_in_thread
from penstock.batches.client import Batches
from penstock.batches.estimates import Estimate
from penstock.batches.results import CollectionOrder, LineOffset, checked_order
from penstock.batches.view import Batch, BatchPage
from penstock.events import Cursor, Event
from penstock.follow.async_reader import AsyncReader
from penstock.settings import ClientSettings
from penstock.store.connection import redis_errors_translated
from penstock.store.record import checked_id
from penstock.views import View

#: Lines that are read in one go of a thread.
_LINES_AT_ONCE = 1_000


class AsyncBatches:
    """Batch jobs: create, look at, follow, cancel, and read the results of.

    Arguments and errors are those of `penstock.batches.client.Batches`.
    """

    def __init__(self, batches: Batches, settings: ClientSettings, reader: AsyncReader) -> None:
        self._sync = batches
        self._settings = settings
        self._reader = reader

    async def create(
        self, *, requests: Iterable[Any] | AsyncIterable[Any], **options: Any
    ) -> Batch:
        """Enqueue a job and return it at once. ``requests`` may be an async iterable as well; any
        other is read in a thread. Options and errors as of
        `penstock.batches.client.Batches.create`."""
        return await create_in_thread(self._sync.create, requests, **options)

    async def retrieve(self, id: str) -> Batch:
        """The job as it stands. Raises `NotFound`."""
        return await asyncio.to_thread(self._sync.retrieve, id)

    def list(
        self, *, limit: int = 20, after_id: str | None = None, before_id: str | None = None
    ) -> "AsyncListing":
        """The jobs that still have a record, newest first: ``await`` gives a page, ``async for``
        all of them."""

        def page() -> BatchPage:
            return self._sync.list(limit=limit, after_id=after_id, before_id=before_id)

        return AsyncListing(page)

    async def cancel(self, id: str, *, who: str = "client") -> Batch:
        """Ask for a job to be canceled; what has succeeded by then is kept. Raises `NotFound`."""
        return await asyncio.to_thread(self._sync.cancel, id, who=who)

    async def resume(
        self, id: str, *, who: str = "client", max_cost_usd: float | None = None
    ) -> Batch:
        """Let a paused job go on. Raises `NotFound` or `InvalidRequest`."""
        return await asyncio.to_thread(self._sync.resume, id, who=who, max_cost_usd=max_cost_usd)

    async def delete(self, id: str) -> None:
        """Remove an ended job and its results. Raises `NotFound` or `NotEnded`."""
        await asyncio.to_thread(self._sync.delete, id)

    async def estimate(self, batch: Batch) -> Estimate | None:
        """How much longer a job will take; None where nothing can be said."""
        return await asyncio.to_thread(self._sync.estimate, batch)

    def events(
        self, id: str, *, after: Cursor | str | None = None, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Every event of the job behind ``after``, live, up to the last one."""
        keys = self._settings.keys.job(checked_id(id))
        return self._reader.follow(keys, after=Cursor.of(after), timeout=timeout)

    async def wait(
        self,
        id: str,
        on_progress: Callable[[Batch], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Batch:
        """Wait until the job has ended; ``on_progress`` is called on the loop."""
        deadline = None if timeout is None else time.monotonic() + timeout
        tell = on_progress or (lambda _: None)
        records = self._sync._records
        with redis_errors_translated(self._settings):
            job = await asyncio.to_thread(records.read, id)
            cursor = Cursor(0, job.record.n)
            tell(batch := Batch.of(job))
            while not job.state.ended:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                source = self.events(id, after=cursor, timeout=left)
                async with aclosing(source) as found:
                    async for event in found:
                        cursor = event.cursor  # the record may be ahead of it
                        job = await asyncio.to_thread(records.updated, job, event)
                        tell(batch := Batch.of(job))
                        if deadline is not None or job.state.ended:
                            break  # with a deadline the time that is left has changed
        return batch

    async def results(
        self,
        id: str,
        *,
        order: str = "completed",
        after: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[View]:
        """The result lines of a job, as objects."""
        lines = self.result_lines(id, order=order, after=after, wait=wait, timeout=timeout)
        async with aclosing(lines) as found:
            async for line in found:
                yield View(orjson.loads(line))

    async def result_lines(
        self,
        id: str,
        *,
        order: str = "completed",
        after: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The same lines as the API's JSONL, unparsed."""
        checked_order(order, wait=wait)
        async with aclosing(self._sources(id, order, after, timeout, wait=wait)) as sources:
            async for lines in sources:
                while page := await asyncio.to_thread(_next_lines, lines):
                    for line in page:
                        yield line

    async def _sources(
        self, id: str, order: str, after: int, timeout: float | None, *, wait: bool
    ) -> AsyncGenerator[Iterator[bytes], None]:
        """Iterators that hold the lines between them; the next one when there is one."""
        if not wait:
            yield self._sync.result_lines(id, order=order, after=after)
            return
        records, collection_order, offset = (
            self._sync._records,
            CollectionOrder(),
            LineOffset(after),
        )
        with redis_errors_translated(self._settings):
            results = records.results(await asyncio.to_thread(records.record, id))
            async with aclosing(self.events(id, timeout=timeout)) as found:
                async for event in found:
                    number = collection_order.shard_of(event)
                    if number is not None:
                        shard = await asyncio.to_thread(records.shard, id, number)
                        yield results.lines(shard, after=offset.skip(shard))
                    if event.type == events.END:
                        break
            for shard in collection_order.without_event(
                (await asyncio.to_thread(records.read, id)).shards
            ):
                yield results.lines(shard, after=offset.skip(shard))


class AsyncListing:
    """A list of jobs: ``await`` it for its first page, or iterate over all jobs."""

    def __init__(self, page: Callable[[], BatchPage]) -> None:
        self._page = page

    def __await__(self) -> Generator[Any, None, "AsyncBatchPage"]:
        return self._first().__await__()

    async def _first(self) -> "AsyncBatchPage":
        return AsyncBatchPage(await asyncio.to_thread(self._page))

    async def __aiter__(self) -> AsyncIterator[Batch]:
        async for batch in await self._first():
            yield batch


class AsyncBatchPage:
    """Some jobs of a list, newest first; ``async for`` goes on with the pages behind it."""

    def __init__(self, page: BatchPage) -> None:
        self._page = page
        self.data = page.data
        self.has_more = page.has_more
        self.first_id = page.first_id
        self.last_id = page.last_id

    def has_next_page(self) -> bool:
        """Whether `get_next_page` has anything."""
        return self._page.has_next_page()

    async def get_next_page(self) -> "AsyncBatchPage":
        """The page behind this one."""
        return AsyncBatchPage(await asyncio.to_thread(self._page.get_next_page))

    async def __aiter__(self) -> AsyncIterator[Batch]:
        page = self
        while True:
            for batch in page.data:
                yield batch
            if not page.has_next_page():
                return
            page = await page.get_next_page()


def _next_lines(lines: Iterator[bytes]) -> list[bytes]:
    return [*islice(lines, _LINES_AT_ONCE)]
