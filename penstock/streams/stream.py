"""One streamed request as a client sees it: its handle, and its answer as a live stream."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from penstock import events
from penstock.errors import NotFound
from penstock.events import Cursor, Event
from penstock.follow.interrupt import Interrupt
from penstock.follow.multiplexer import Multiplexer
from penstock.follow.reader import follow
from penstock.follow.waiting import MAX_UNAVAILABLE_S, read_waiting
from penstock.settings import ClientSettings
from penstock.states import State
from penstock.store.connection import Connection, redis_errors_translated
from penstock.store.record import Record
from penstock.streams.message_builder import MessageBuilder
from penstock.streams.records import RequestRecords
from penstock.streams.transcript import Coverage, Transcript
from penstock.views import View, view

if TYPE_CHECKING:
    from anthropic.types import Message


class StreamRequest:
    """The handle of an enqueued request. It has an id and no connection of its own.

    `Messages.enqueue` and `Messages.request` return it. Its methods raise `RedisUnavailable`, and
    `NotFound` once the record has expired. For example::

        request = client.messages.enqueue(model=model, max_tokens=200, messages=messages)
        print(request.id, request.state)
        for event in request.events(timeout=60):
            print(event.cursor, event.type)
        message = request.result()
    """

    def __init__(
        self,
        id: str,
        connection: Connection,
        settings: ClientSettings,
        multiplexer: Multiplexer,
    ) -> None:
        self.id = id
        self._redis = connection
        self._settings = settings
        self._multiplexer = multiplexer
        self._records = RequestRecords(connection, settings)

    def __repr__(self) -> str:
        return f"<StreamRequest {self.id}>"

    def record(self) -> Record:
        """Read the record: state, counters, times in ms, usage, error. Raises `NotFound`."""
        with redis_errors_translated(self._settings):
            return self._records.read(self.id)

    @property
    def state(self) -> State:
        """The state of the request now. Raises `NotFound`."""
        return self.record().state

    def text(self) -> str:
        """Read the visible text so far, once. It is complete if the state is final."""
        with redis_errors_translated(self._settings):
            return self._records.text(self.id)

    def events(
        self,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> Generator[Event, None, None]:
        """Yield every event after ``after``, live, up to and including ``penstock.end``.

        - ``after``: the cursor of the last event that the reader has taken; None: from the first.
        - ``timeout``: maximum seconds between two events.
        - ``wait_for``: seconds to wait for a request that has not been enqueued yet.

        Raises `NotFound`, `TimeoutError`, `RedisUnavailable`, `RecordUnreadable`, `ClientClosed`,
        or `ValueError` if ``after`` is not a cursor. A failed or canceled request raises nothing
        here: its last event says so. For example::

            for event in request.events(after="1-58", timeout=60):
                print(event.n, event.data)
        """
        return self._follow(Cursor.of(after), timeout, wait_for)

    def _follow(
        self,
        after: Cursor | None,
        timeout: float | None,
        wait_for: float,
        *,
        text_first: bool = False,
        answered: bool = False,
        unavailable_s: float | None = None,
        interrupt: Interrupt | None = None,
    ) -> Generator[Event, None, None]:
        with redis_errors_translated(self._settings):
            yield from follow(
                self._redis,
                self._multiplexer,
                self._settings.keys.request(self.id),
                after=after,
                timeout=timeout,
                wait_for=wait_for,
                text_first=text_first,
                answered=answered,
                unavailable_s=unavailable_s,
                interrupt=interrupt,
            )

    def stream(
        self,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> "MessageStream":
        """Follow the answer with the interface of the SDK's stream. Arguments as of `events`."""
        cursor = Cursor.of(after)
        interrupt, text = Interrupt(), None
        if cursor is None:
            text = self._follow(None, timeout, wait_for, text_first=True, interrupt=interrupt)
        source = self._follow(cursor, timeout, wait_for, interrupt=interrupt)
        return MessageStream(self, source, after=cursor, text_source=text, interrupt=interrupt)

    def events_waiting(
        self, *, after: Cursor | None = None, timeout: float | None = None
    ) -> Generator[Event, None, None]:
        """Yield the events, for a reader to whom Redis has answered before: it waits for Redis.

        `MAX_UNAVAILABLE_S` is the limit also with a shorter ``timeout`` between two events.
        """
        return self._follow(after, timeout, 0.0, answered=True, unavailable_s=MAX_UNAVAILABLE_S)

    def record_waiting(self) -> Record:
        """Read the record; it waits for Redis, as `events_waiting`."""
        with redis_errors_translated(self._settings):
            return read_waiting(lambda: self._records.read(self.id))

    def text_waiting(self) -> str:
        """Read the visible text; as `record_waiting`."""
        with redis_errors_translated(self._settings):
            return read_waiting(lambda: self._records.text(self.id))

    def cancel(self, who: str = "client") -> State:
        """Cancel the request. Returns the state it had; what was received is kept.

        ``who`` is stored in the record and in the last event. A running request ends a moment
        later, when its worker learns of it. Raises `NotFound`.
        """
        with redis_errors_translated(self._settings):
            return self._records.cancel(self.id, who)

    def result(self, *, timeout: float | None = None) -> "Message":
        """Wait for the end and return the whole message.

        Raises what `MessageStream.get_final_message` raises. For example::

            message = request.result(timeout=60)
            print(message.content[0].text, message.usage.output_tokens)
        """
        return self.stream(timeout=timeout).get_final_message()


class MessageStream:
    """A live answer: iterate over its events, or over ``text_stream``. A context manager.

    `Messages.stream`, `Messages.attach` and `StreamRequest.stream` return it. It has the interface
    of the SDK's ``MessageStream``; leaving the ``with`` block stops reading, and the request runs
    on. For example::

        with client.messages.attach(id) as stream:
            for event in stream:
                if event.type == "content_block_delta":
                    print(event.delta)
            print(stream.end.usage)
    """

    def __init__(
        self,
        request: StreamRequest,
        source: Iterator[Event],
        *,
        after: Cursor | None = None,
        text_source: Iterator[Event] | None = None,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        # `source` yields the events after `after`; `text_source`, if given, yields the same stream
        # beginning with the text so far, which is all that `text_stream` needs.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading. The request runs on; `cancel` ends it.

        A thread that is reading then raises `NotEnded`, unless it has the last event.
        """
        self._transcript.stop("closed")
        self._interrupt()
        close = getattr(self._source, "close", None)
        if close is not None:
            with suppress(ValueError):  # another thread is reading: the interrupt ends it
                close()

    def cancel(self) -> State:
        """Cancel the request. Returns the state it had."""
        return self.request.cancel()

    def __iter__(self) -> Iterator[View]:
        """Yield the API's events, with attribute access, and Penstock's own between them.

        After the last event it raises `RequestFailed` or `RequestCanceled`, unless the request is
        done.
        """
        while (event := self._next()) is not None:
            self._transcript.apply(event)
            yield view(event.data)
        self._raise_unless_done()

    @property
    def text_stream(self) -> Iterator[str]:
        """The visible text, piece by piece. A late reader gets the text so far as one piece.

        Only final text is yielded: the first few words are held back until no interruption can
        withdraw them. With ``on_interrupt="restart"`` and for a structured answer, that is the
        whole text, at the end. Raises `TextRewound` if text that was yielded is withdrawn all the
        same, because Redis has lost it, and other text follows; and `RequestFailed` or
        `RequestCanceled` after the last piece, unless the request is done.
        """
        transcript, flow = self._transcript, None
        if self._text_source is not None and not self._transcript.cursor.n:
            self._source = self._text_source
        while (event := self._next()) is not None:
            flow = flow or transcript.flow(self._text_final(event))
            if transcript.must_be_rebuilt_for(event):
                transcript.replace(self._rebuilt(before=event))
                flow = flow.rebuilt(transcript.builder.text)
            piece = transcript.read(event, flow)
            if piece:
                yield piece
        self._raise_unless_done()
        if flow is not None:
            flow.finish()

    def until_done(self) -> None:
        """Read every event to the end. Raises `RequestFailed` or `RequestCanceled`."""
        while (event := self._next()) is not None:
            self._transcript.apply(event)
        self._raise_unless_done()

    @property
    def end(self) -> View | None:
        """The data of the last event (state, stop reason, usage); None before it arrived."""
        end = self._transcript.end
        return None if end is None else view(end)

    def get_final_text(self) -> str:
        """Wait for the end and return all visible text.

        Raises `RequestFailed` or `RequestCanceled`, or `NotEnded` if reading stopped before the
        end.
        """
        self.until_done()
        if self._transcript.coverage is Coverage.TAIL:
            self._replace()
        return self._transcript.builder.text

    def get_final_message(self) -> "Message":
        """Wait for the end and return the message as the SDK's type, ``anthropic.types.Message``.

        Raises what `get_final_text` raises, and `MissingDependency` without the package
        ``anthropic``.
        """
        self.until_done()
        if self._transcript.coverage is not Coverage.FULL:
            self._replace()
        return self._transcript.message()

    def _next(self) -> Event | None:
        """The next event; None after the last one."""
        self._transcript.check_open()
        try:
            event = next(self._source, None)
        except Exception as error:
            self._transcript.stop(f"reading stopped ({type(error).__name__})")
            raise
        if event is None:
            self._transcript.stop("its log has no last event; reading stopped")
            self._transcript.check_open()
        return event

    def _text_final(self, event: Event) -> str | None:
        """When the text is final, by the first event or, for a late reader, by the record."""
        if event.type == events.QUEUED:
            return event.data.get("text_final")
        with suppress(NotFound):  # it expired while its last events were read
            return self.request.record_waiting().fields.get("text_final")
        return None

    def _replace(self) -> None:
        self._transcript.replace(self._rebuilt())
        self._raise_unless_done()

    def _rebuilt(self, *, before: Event | None = None) -> MessageBuilder:
        """Build the message from all events of the log, or from those before ``before``."""
        builder = MessageBuilder()
        with closing(self.request.events_waiting()) as log:
            for event in log:
                if before is not None and event.n >= before.n:
                    break
                builder.apply(event.data)
        return builder

    def _raise_unless_done(self) -> None:
        transcript = self._transcript
        if transcript.end is None:
            transcript.end_as(self.request.record_waiting())
        if not transcript.ended_well:
            resumed = transcript.coverage is Coverage.TAIL
            transcript.raise_unless_done(
                self.request.text_waiting() if resumed else transcript.builder.text
            )
