"""Like `penstock.streams.stream`, for event loops: a request's handle, and its live answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from penstock import events
from penstock.errors import NotFound
from penstock.events import Cursor, Event
from penstock.follow.async_reader import AsyncReader
from penstock.follow.interrupt import Interrupt
from penstock.follow.waiting import read_waiting_async
from penstock.settings import ClientSettings
from penstock.states import State
from penstock.store.connection import redis_errors_translated
from penstock.store.record import Record
from penstock.streams.message_builder import MessageBuilder
from penstock.streams.stream import StreamRequest
from penstock.streams.transcript import Coverage, Transcript
from penstock.views import View, view

if TYPE_CHECKING:
    from anthropic.types import Message

T = TypeVar("T")


class AsyncStreamRequest:
    """The handle of an enqueued request, on an event loop. As `StreamRequest`."""

    def __init__(
        self, request: StreamRequest, settings: ClientSettings, reader: AsyncReader
    ) -> None:
        self.id = request.id
        self._sync = request
        self._settings = settings
        self._keys = settings.keys.request(request.id)
        self._reader = reader

    def __repr__(self) -> str:
        return f"<AsyncStreamRequest {self.id}>"

    async def record(self) -> Record:
        """Read the record; as `StreamRequest.record`."""
        return await asyncio.to_thread(self._sync.record)

    async def text(self) -> str:
        """Read the visible text so far, once; as `StreamRequest.text`."""
        return await asyncio.to_thread(self._sync.text)

    def events(
        self,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> AsyncGenerator[Event, None]:
        """Yield every event after ``after``, live; as `StreamRequest.events`."""
        cursor = Cursor.of(after)
        return self._reader.follow(self._keys, after=cursor, timeout=timeout, wait_for=wait_for)

    def stream(
        self,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> "AsyncMessageStream":
        """Follow the answer with the interface of the SDK's stream. Arguments as of `events`."""
        cursor = Cursor.of(after)
        follow = partial(
            self._reader.follow,
            self._keys,
            timeout=timeout,
            wait_for=wait_for,
            interrupt=(interrupt := Interrupt()),
        )
        text = follow(text_first=True) if cursor is None else None
        source = follow(after=cursor)
        return AsyncMessageStream(self, source, after=cursor, text_source=text, interrupt=interrupt)

    def events_waiting(self) -> AsyncGenerator[Event, None]:
        """Yield the events from the first; as `StreamRequest.events_waiting`."""
        return self._reader.follow(self._keys, answered=True)

    async def record_waiting(self) -> Record:
        """Read the record; as `StreamRequest.record_waiting`."""
        return await self._waiting(self._sync._records.read)

    async def text_waiting(self) -> str:
        """Read the visible text; as `StreamRequest.text_waiting`."""
        return await self._waiting(self._sync._records.text)

    async def _waiting(self, read: Callable[[str], T]) -> T:
        with redis_errors_translated(self._settings):
            return await read_waiting_async(lambda: asyncio.to_thread(read, self.id))

    async def cancel(self, who: str = "client") -> State:
        """Cancel the request; as `StreamRequest.cancel`."""
        return await asyncio.to_thread(self._sync.cancel, who)

    async def result(self, *, timeout: float | None = None) -> "Message":
        """Wait for the end and return the whole message; as `StreamRequest.result`."""
        async with self.stream(timeout=timeout) as stream:
            return await stream.get_final_message()


class AsyncMessageStream:
    """A live answer: iterate over its events, or over ``text_stream``. As `MessageStream`.

    For example::

        async with client.messages.attach(id) as stream:
            async for event in stream:
                print(event.type)
    """

    def __init__(
        self,
        request: AsyncStreamRequest,
        source: AsyncIterator[Event],
        *,
        after: Cursor | None = None,
        text_source: AsyncIterator[Event] | None = None,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self.request = request
        self._source = source
        self._text_source = text_source
        self._interrupt = interrupt or Interrupt()
        self._transcript = Transcript(after)

    @property
    def id(self) -> str:
        """The id of the request, which is also its Celery task id."""
        return self.request.id

    @property
    def cursor(self) -> Cursor:
        """The position after the last event taken; ``attach(id, after=…)`` resumes there."""
        return self._transcript.resume_cursor

    @property
    def end(self) -> View | None:
        """The data of the last event (state, stop reason, usage); None before it arrived."""
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
        """Stop reading; as `MessageStream.close`. A task that is reading then raises `NotEnded`."""
        self._transcript.stop("closed")
        self._interrupt()
        close = getattr(self._source, "aclose", None)
        if close is not None:
            with suppress(RuntimeError):  # another task is reading: the interrupt ends it
                await close()

    async def cancel(self) -> State:
        """Cancel the request. Returns the state it had."""
        return await self.request.cancel()

    async def __aiter__(self) -> AsyncIterator[View]:
        """Yield the API's events with attribute access, and Penstock's own; as `MessageStream`."""
        while (event := await self._next()) is not None:
            self._transcript.apply(event)
            yield view(event.data)
        await self._raise_unless_done()

    @property
    async def text_stream(self) -> AsyncIterator[str]:
        """The visible text, piece by piece; as `MessageStream.text_stream`."""
        transcript, flow = self._transcript, None
        if self._text_source is not None and not self._transcript.cursor.n:
            self._source = self._text_source
        while (event := await self._next()) is not None:
            flow = flow or transcript.flow(await self._text_final(event))
            if transcript.must_be_rebuilt_for(event):
                transcript.replace(await self._rebuilt(before=event))
                flow = flow.rebuilt(transcript.builder.text)
            piece = transcript.read(event, flow)
            if piece:
                yield piece
        await self._raise_unless_done()
        if flow is not None:
            flow.finish()

    async def until_done(self) -> None:
        """Read every event to the end. Raises `RequestFailed` or `RequestCanceled`."""
        while (event := await self._next()) is not None:
            self._transcript.apply(event)
        await self._raise_unless_done()

    async def get_final_text(self) -> str:
        """Wait for the end and return all visible text; as `MessageStream.get_final_text`."""
        await self.until_done()
        if self._transcript.coverage is Coverage.TAIL:
            await self._replace()
        return self._transcript.builder.text

    async def get_final_message(self) -> "Message":
        """Wait for the end and return the message; as `MessageStream.get_final_message`."""
        await self.until_done()
        if self._transcript.coverage is not Coverage.FULL:
            await self._replace()
        return self._transcript.message()

    async def _next(self) -> Event | None:
        """The next event; None after the last one."""
        self._transcript.check_open()
        try:
            event = await anext(self._source, None)
        except BaseException as error:
            # A cancellation ends the source as well.
            self._transcript.stop(f"reading stopped ({type(error).__name__})")
            raise
        if event is None:
            self._transcript.stop("its log has no last event; reading stopped")
            self._transcript.check_open()
        return event

    async def _text_final(self, event: Event) -> str | None:
        """When the text is final, by the first event or, for a late reader, by the record."""
        if event.type == events.QUEUED:
            return event.data.get("text_final")
        with suppress(NotFound):  # it expired while its last events were read
            return (await self.request.record_waiting()).fields.get("text_final")
        return None

    async def _replace(self) -> None:
        self._transcript.replace(await self._rebuilt())
        await self._raise_unless_done()

    async def _rebuilt(self, *, before: Event | None = None) -> MessageBuilder:
        """Build the message from all events of the log, or from those before ``before``."""
        builder = MessageBuilder()
        async with aclosing(self.request.events_waiting()) as log:
            async for event in log:
                if before is not None and event.n >= before.n:
                    break
                builder.apply(event.data)
        return builder

    async def _raise_unless_done(self) -> None:
        transcript = self._transcript
        if transcript.end is None:
            transcript.end_as(await self.request.record_waiting())
        if not transcript.ended_well:
            resumed = transcript.coverage is Coverage.TAIL
            transcript.raise_unless_done(
                await self.request.text_waiting() if resumed else transcript.builder.text
            )
