"""``client.messages.batches`` for event loops: the same methods with ``await`` and ``async for``.

Events are read natively. Everything else runs the synchronous code in a thread: commands, and
reading result lines, a thousand at a time, since decompressing them would block the loop.
"""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import aclosing
from itertools import islice
from typing import Any, TypeVar

from penstock import events
from penstock.batches.async_pages import AsyncBatchList
from penstock.batches.async_source import create_in_thread
from penstock.batches.client import Batches
from penstock.batches.estimates import Estimate
from penstock.batches.pages import BatchPage
from penstock.batches.results import CollectionOrder, LineOffset, checked_order
from penstock.batches.unreadable import parse_line
from penstock.batches.view import Batch
from penstock.events import Cursor, Event
from penstock.follow.async_reader import AsyncReader
from penstock.follow.waiting import read_waiting_async
from penstock.settings import ClientSettings
from penstock.store.connection import redis_errors_translated
from penstock.store.record import checked_id
from penstock.views import View

T = TypeVar("T")

#: Result lines that a thread reads at a time.
_LINES_AT_ONCE = 1_000


class AsyncBatches:
    """Creates, lists, follows, cancels and deletes batch jobs on an event loop.

    The methods, their arguments and their errors are those of `penstock.batches.client.Batches`.

        job = await client.messages.batches.create(requests=requests)
        await client.messages.batches.wait(job.id)
        async for line in client.messages.batches.results(job.id):
            print(line.custom_id, line.result.type)
    """

    def __init__(self, batches: Batches, settings: ClientSettings, reader: AsyncReader) -> None:
        self._sync = batches
        self._settings = settings
        self._reader = reader

    async def create(
        self, *, requests: Iterable[Any] | AsyncIterable[Any], **options: Any
    ) -> Batch:
        """Submit a job and return it as soon as it is enqueued.

            job = await client.messages.batches.create(requests=rows(), max_cost_usd=50)

        ``requests`` may also be an async iterable; any other is read in a thread. A call that is
        canceled before the last request is read leaves no job. Options and errors are those of
        `penstock.batches.client.Batches.create`.
        """
        return await create_in_thread(self._sync.create, requests, **options)

    async def retrieve(self, id: str) -> Batch:
        """Read a job: `penstock.batches.client.Batches.retrieve`."""
        return await asyncio.to_thread(self._sync.retrieve, id)

    def list(
        self, *, limit: int = 20, after_id: str | None = None, before_id: str | None = None
    ) -> AsyncBatchList:
        """List the jobs that have a record, newest first.

            page = await client.messages.batches.list()  # the first page
            async for job in client.messages.batches.list():  # all jobs
                print(job.id, job.state)

        Arguments and errors are those of `penstock.batches.client.Batches.list`.
        """

        def page() -> BatchPage:
            return self._sync.list(limit=limit, after_id=after_id, before_id=before_id)

        return AsyncBatchList(page)

    async def cancel(self, id: str, *, who: str = "client") -> Batch:
        """Request that a job be canceled: `penstock.batches.client.Batches.cancel`."""
        return await asyncio.to_thread(self._sync.cancel, id, who=who)

    async def resume(
        self, id: str, *, who: str = "client", max_cost_usd: float | None = None
    ) -> Batch:
        """Resume a paused job: `penstock.batches.client.Batches.resume`."""
        return await asyncio.to_thread(self._sync.resume, id, who=who, max_cost_usd=max_cost_usd)

    async def retry_failed(self, id: str, *, max_cost_usd: float | None = None) -> Batch:
        """Send failed requests again: `penstock.batches.client.Batches.retry_failed`."""
        return await asyncio.to_thread(self._sync.retry_failed, id, max_cost_usd=max_cost_usd)

    async def delete(self, id: str) -> None:
        """Delete an ended job with its results: `penstock.batches.client.Batches.delete`."""
        await asyncio.to_thread(self._sync.delete, id)

    async def estimate(self, batch: Batch) -> Estimate | None:
        """Estimate how much longer a job takes: `penstock.batches.client.Batches.estimate`."""
        return await asyncio.to_thread(self._sync.estimate, batch)

    def events(
        self, id: str, *, after: Cursor | str | None = None, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield every event of a job, live: `penstock.batches.client.Batches.events`."""
        keys = self._settings.keys.job(checked_id(id))
        return self._reader.follow(keys, after=Cursor.of(after), timeout=timeout)

    async def wait(
        self,
        id: str,
        on_progress: Callable[[Batch], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Batch:
        """Wait until a job has ended: `penstock.batches.client.Batches.wait`.

        ``on_progress`` is called on the event loop, so it must not block.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        report = on_progress or (lambda _: None)
        records, keys = self._sync._records, self._settings.keys.job(checked_id(id))
        with redis_errors_translated(self._settings):
            job = await asyncio.to_thread(records.read, id)
            cursor = Cursor(0, job.record.n)
            report(batch := Batch.of(job))
            while not job.state.ended:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                source = self._reader.follow(keys, after=cursor, timeout=left, answered=True)
                async with aclosing(source) as found:
                    async for event in found:
                        cursor = event.cursor  # the record may be ahead of it
                        job = await _waiting(left, records.updated, job, event)
                        report(batch := Batch.of(job))
                        if deadline is not None or job.state.ended:
                            break  # with a deadline, the time that is left has changed
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
        """Yield the results of a job: `penstock.batches.client.Batches.results`."""
        lines = self.result_lines(id, order=order, after=after, wait=wait, timeout=timeout)
        async with aclosing(lines) as found:
            async for line in found:
                yield View(parse_line(line))

    async def result_lines(
        self,
        id: str,
        *,
        order: str = "completed",
        after: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield them as JSONL, unparsed: `penstock.batches.client.Batches.result_lines`."""
        checked_order(order, wait=wait)
        async with aclosing(self._sources(id, order, after, timeout, wait=wait)) as sources:
            async for lines in sources:
                while page := await asyncio.to_thread(_next_lines, lines):
                    for line in page:
                        yield line

    async def _sources(
        self, id: str, order: str, after: int, timeout: float | None, *, wait: bool
    ) -> AsyncGenerator[Iterator[bytes], None]:
        """Yield iterators over the lines, one after the other, as shards are collected."""
        if not wait:
            yield self._sync.result_lines(id, order=order, after=after)
            return
        records, collection, offset = self._sync._records, CollectionOrder(), LineOffset(after)
        with redis_errors_translated(self._settings):
            results = records.results(await asyncio.to_thread(records.record, id))
            async with aclosing(self.events(id, timeout=timeout)) as found:
                async for event in found:
                    number = collection.shard_of(event)
                    if number is not None:
                        shard = await _waiting(timeout, records.shard, id, number)
                        yield results.lines(shard, after=offset.skip(shard))
                    if event.type == events.END:
                        break
            job = await _waiting(timeout, records.read, id)
            for shard in collection.without_event(job.shards):
                yield results.lines(shard, after=offset.skip(shard))


async def _waiting(timeout: float | None, read: Callable[..., T], *args: object) -> T:
    """Read in a thread, as `penstock.follow.waiting.read_waiting`."""
    return await read_waiting_async(lambda: asyncio.to_thread(read, *args), timeout)


def _next_lines(lines: Iterator[bytes]) -> list[bytes]:
    return [*islice(lines, _LINES_AT_ONCE)]
