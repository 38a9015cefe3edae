"""`penstock.stream` for event loops: a request's handle and the live view of its answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self

from penstock.events import Cursor, Event
from penstock.follow.async_reader import AsyncReader
from penstock.settings import ClientSettings
from penstock.states import State
from penstock.store.record import Record
from penstock.streams.message_builder import MessageBuilder
from penstock.streams.stream import StreamRequest
from penstock.streams.transcript import Coverage, Transcript
from penstock.views import View, view

if TYPE_CHECKING:
    from anthropic.types import Message


class AsyncStreamRequest:
    """The handle of an enqueued request."""

    def __init__(
        self, request: StreamRequest, settings: ClientSettings, reader: AsyncReader
    ) -> None:
        self.id = request.id
        self._sync = request
        self._keys = settings.keys.request(request.id)
        self._reader = reader

    def __repr__(self) -> str:
        return f"<AsyncStreamRequest {self.id}>"

    async def record(self) -> Record:
        """Its record: state, counters, times, usage, error. Raises `NotFound`."""
        return await asyncio.to_thread(self._sync.record)

    async def text(self) -> str:
        """The visible answer so far, by one look; complete once the state says so."""
        return await asyncio.to_thread(self._sync.text)

    def events(
        self,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> AsyncGenerator[Event, None]:
        """Every event behind ``after``, live, up to the last one; as `StreamRequest.events`."""
        cursor = Cursor.of(after)
        return self._reader.follow(self._keys, after=cursor, timeout=timeout, wait_for=wait_for)

    def stream(
        self,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> "AsyncMessageStream":
        """Its answer in the shape of the SDK's stream; arguments as of `events`."""
        cursor = Cursor.of(after)
        text = None
        if cursor is None:
            text = self._reader.follow(
                self._keys, timeout=timeout, wait_for=wait_for, text_first=True
            )
        source = self.events(after=cursor, timeout=timeout, wait_for=wait_for)
        return AsyncMessageStream(self, source, after=cursor, text_source=text)

    async def cancel(self, who: str = "client") -> State:
        """Ask for it to be canceled; returns the state it had. What was received is kept."""
        return await asyncio.to_thread(self._sync.cancel, who)

    async def result(self, *, timeout: float | None = None) -> "Message":
        """Wait for the end and return the whole message."""
        async with self.stream(timeout=timeout) as stream:
            return await stream.get_final_message()


class AsyncMessageStream:
    """A live answer: ``async for`` over its events, or over ``text_stream``.

    The same as `penstock.streams.stream.MessageStream`.
    """

    def __init__(
        self,
        request: AsyncStreamRequest,
        source: AsyncIterator[Event],
        *,
        after: Cursor | None = None,
        text_source: AsyncIterator[Event] | None = None,
    ) -> None:
        self.request = request
        self._source = source
        self._text_source = text_source
        self._transcript = Transcript(after)

    @property
    def id(self) -> str:
        """The request's id, which is also its Celery task id."""
        return self.request.id

    @property
    def cursor(self) -> Cursor:
        """The place behind the last event taken; ``attach(id, after=…)`` goes on there."""
        return self._transcript.cursor

    @property
    def end(self) -> View | None:
        """The data of the last event (stop reason, usage, what was kept), once it came."""
        end = self._transcript.end
        return None if end is None else view(end)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop following. The request itself goes on; `cancel` ends it."""
        self._transcript.stop("closed")
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    async def cancel(self) -> State:
        """Ask for the request to be canceled; returns the state it had."""
        return await self.request.cancel()

    async def __aiter__(self) -> AsyncIterator[View]:
        """The API's events, unchanged, with attribute access, and Penstock's own between them.

        Raises `RequestFailed` or `RequestCanceled` behind the last event if it did not end well.
        """
        while (event := await self._next()) is not None:
            self._transcript.apply(event)
            yield view(event.data)
        await self._raise_unless_done()

    @property
    async def text_stream(self) -> AsyncIterator[str]:
        """The visible answer, piece by piece; what has been written already is the first piece.

        Raises `TextRewound` when text that was given out is taken back and other text comes.
        """
        transcript, flow = self._transcript, self._transcript.flow()
        if self._text_source is not None and not self._transcript.cursor.n:
            self._source = self._text_source
        while (event := await self._next()) is not None:
            if transcript.must_be_rebuilt_for(event):
                transcript.replace(await self._rebuilt(before=event))
                flow = transcript.flow()
            piece = transcript.read(event, flow)
            if piece:
                yield piece
        await self._raise_unless_done()
        flow.finish()

    async def until_done(self) -> None:
        """Take every event up to the end."""
        while (event := await self._next()) is not None:
            self._transcript.apply(event)
        await self._raise_unless_done()

    async def get_final_text(self) -> str:
        """All visible text, when the answer is complete."""
        await self.until_done()
        if self._transcript.coverage is Coverage.TAIL:
            await self._replace()
        return self._transcript.builder.text

    async def get_final_message(self) -> "Message":
        """The whole message as the SDK's own type, when the answer is complete.

        Needs the ``anthropic`` package; `MissingDependency` says so where it is not installed.
        """
        await self.until_done()
        if self._transcript.coverage is not Coverage.FULL:
            await self._replace()
        return self._transcript.message()

    async def _next(self) -> Event | None:
        """The next event; None behind the last one."""
        self._transcript.check_open()
        try:
            return await anext(self._source, None)
        except BaseException as error:
            # Being canceled ends the source as well.
            self._transcript.stop(f"reading stopped ({type(error).__name__})")
            raise

    async def _replace(self) -> None:
        self._transcript.replace(await self._rebuilt())
        await self._raise_unless_done()

    async def _rebuilt(self, *, before: Event | None = None) -> MessageBuilder:
        """All events of the log put together, or those before one of them."""
        builder = MessageBuilder()
        async with aclosing(self.request.events()) as log:
            async for event in log:
                if before is not None and event.n >= before.n:
                    break
                builder.apply(event.data)
        return builder

    async def _raise_unless_done(self) -> None:
        transcript = self._transcript
        if not transcript.ended_well:
            resumed = transcript.coverage is Coverage.TAIL
            transcript.raise_unless_done(
                await self.request.text() if resumed else transcript.builder.text
            )
