"""The asyncio client: the interface of `Client` with ``await``, ``async with`` and ``async for``.

One pub/sub connection and one task serve all streams that the client follows. Commands (enqueue,
cancel, the calls of batches) are short and run the synchronous client in a thread, so each has one
implementation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Self

from penstock.batches.async_client import AsyncBatches
from penstock.client import Client
from penstock.events import Cursor
from penstock.follow.async_reader import AsyncReader
from penstock.store.record import checked_id
from penstock.streams.async_stream import AsyncMessageStream, AsyncStreamRequest
from penstock.validation import check_timeout


class AsyncClient:
    """Enqueues requests and batch jobs, and follows them, on one event loop.

    Settings and errors are those of `penstock.Client`. No connection is made before the first call.
    For example::

        async with AsyncClient("redis://127.0.0.1:6379/0") as client:
            async with client.messages.stream(
                model="claude-haiku-4-5",
                max_tokens=200,
                messages=[{"role": "user", "content": "Hello"}],
            ) as stream:
                async for text in stream.text_stream:
                    print(text, end="", flush=True)
    """

    def __init__(self, redis_url: str | None = None, **settings: Any) -> None:
        self._sync = Client(redis_url, **settings)
        self.settings = self._sync.settings
        self._reader = AsyncReader(self.settings)
        self.messages = AsyncMessages(self._sync, self._reader)

    async def close(self) -> None:
        """Close all connections. Readers of open streams raise `ClientClosed`."""
        await self._reader.close()
        await asyncio.to_thread(self._sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncMessages:
    """``client.messages``: live streams; ``client.messages.batches``: batch jobs."""

    def __init__(self, client: Client, reader: AsyncReader) -> None:
        self._client = client
        self._reader = reader
        self.batches = AsyncBatches(client.messages.batches, client.settings, reader)

    def stream(self, *, timeout: float | None = None, **body: Any) -> "Opening":
        """Enqueue a Messages request and follow its answer.

        Enter the result with ``async with``, or ``await`` it. Arguments and errors are those of
        `penstock.client.Messages.stream`.
        """
        seconds = check_timeout(timeout)

        async def open_() -> AsyncMessageStream:
            return (await self.enqueue(**body)).stream(timeout=seconds)

        return Opening(open_)

    async def enqueue(self, **body: Any) -> AsyncStreamRequest:
        """Enqueue a Messages request; as `penstock.client.Messages.enqueue`."""
        request = await asyncio.to_thread(self._client.messages.enqueue, **body)
        return AsyncStreamRequest(request, self._client.settings, self._reader)

    async def request(self, id: str) -> AsyncStreamRequest:
        """Return the handle of an enqueued request. Raises `NotFound`."""
        request = await asyncio.to_thread(self._client.messages.request, id)
        return AsyncStreamRequest(request, self._client.settings, self._reader)

    def attach(
        self,
        id: str,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> "Opening":
        """Follow an enqueued request from the beginning, or from a cursor.

        Enter the result with ``async with``, or ``await`` it. Arguments and errors are those of
        `penstock.client.Messages.attach`.
        """

        async def open_() -> AsyncMessageStream:
            if wait_for:
                handle = self._client.messages.handle(checked_id(id))
                request = AsyncStreamRequest(handle, self._client.settings, self._reader)
            else:
                request = await self.request(id)
            return request.stream(after=after, timeout=timeout, wait_for=wait_for)

        return Opening(open_)


class Opening:
    """A stream that is not opened yet: ``await`` it, or enter it with ``async with``."""

    def __init__(self, open_: Callable[[], Awaitable[AsyncMessageStream]]) -> None:
        self._open = open_
        self._stream: AsyncMessageStream | None = None

    def __await__(self) -> Generator[Any, None, AsyncMessageStream]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncMessageStream:
        self._stream = await self._open()
        return self._stream

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            await self._stream.close()
