"""One streamed request, seen from outside: its handle and the live view of its answer."""

from collections.abc import Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Self

from penstock.events import Cursor, Event
from penstock.follow.multiplexer import Multiplexer
from penstock.follow.reader import follow
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
    """The handle of an enqueued request. It holds an id and no connection of its own."""

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
        """Its record: state, counters, times, usage, error. Raises `NotFound`."""
        with redis_errors_translated(self._settings):
            return self._records.read(self.id)

    @property
    def state(self) -> State:
        """Where it stands. Raises `NotFound`."""
        return self.record().state

    def text(self) -> str:
        """The visible answer so far, by one look; complete once the state says so."""
        with redis_errors_translated(self._settings):
            return self._records.snapshot(self.id)[1]

    def events(
        self,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> Generator[Event, None, None]:
        """Every event behind ``after``, live, up to the last one (`penstock.events`).

        ``timeout`` bounds the seconds between two events. ``wait_for``: seconds to wait for a
        request that has not been enqueued yet. Raises `NotFound`, `TimeoutError`,
        `RedisUnavailable`, and `ValueError` for a cursor that is none.
        """
        return self._follow(Cursor.of(after), timeout, wait_for)

    def _follow(
        self,
        after: Cursor | None,
        timeout: float | None,
        wait_for: float,
        *,
        text_first: bool = False,
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
            )

    def stream(
        self,
        *,
        after: Cursor | str | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
    ) -> "MessageStream":
        """Its answer in the shape of the SDK's stream; arguments as of `events`."""
        cursor = Cursor.of(after)
        text = self._follow(None, timeout, wait_for, text_first=True) if cursor is None else None
        source = self._follow(cursor, timeout, wait_for)
        return MessageStream(self, source, after=cursor, text_source=text)

    def cancel(self, who: str = "client") -> State:
        """Ask for it to be canceled; returns the state it had. What was received is kept."""
        with redis_errors_translated(self._settings):
            return self._records.cancel(self.id, who)

    def result(self, *, timeout: float | None = None) -> "Message":
        """Wait for the end and return the whole message, as `MessageStream.get_final_message`."""
        return self.stream(timeout=timeout).get_final_message()


class MessageStream:
    """A live answer: iterate over its events, or over ``text_stream``. A context manager.

    ``source`` has the events behind ``after``; ``text_source``, if given, has the same stream
    beginning with the text so far, which is all that ``text_stream`` needs.
    """

    def __init__(
        self,
        request: StreamRequest,
        source: Iterator[Event],
        *,
        after: Cursor | None = None,
        text_source: Iterator[Event] | None = None,
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
        """Stop following. The request itself goes on; `cancel` ends it."""
        self._transcript.stop("closed")
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def cancel(self) -> State:
        """Ask for the request to be canceled; returns the state it had."""
        return self.request.cancel()

    def __iter__(self) -> Iterator[View]:
        """The API's events, unchanged, with attribute access, and Penstock's own between them.

        Raises `RequestFailed` or `RequestCanceled` behind the last event if it did not end well.
        """
        while (event := self._next()) is not None:
            self._transcript.apply(event)
            yield view(event.data)
        self._raise_unless_done()

    @property
    def text_stream(self) -> Iterator[str]:
        """The visible answer, piece by piece; what has been written already is the first piece.

        Raises `TextRewound` when text that was given out is taken back and other text comes.
        """
        transcript, flow = self._transcript, self._transcript.flow()
        if self._text_source is not None and not self._transcript.cursor.n:
            self._source = self._text_source
        while (event := self._next()) is not None:
            if transcript.must_be_rebuilt_for(event):
                transcript.replace(self._rebuilt(before=event))
                flow = transcript.flow()
            piece = transcript.read(event, flow)
            if piece:
                yield piece
        self._raise_unless_done()
        flow.finish()

    def until_done(self) -> None:
        """Take every event up to the end."""
        while (event := self._next()) is not None:
            self._transcript.apply(event)
        self._raise_unless_done()

    @property
    def end(self) -> View | None:
        """The data of the last event (stop reason, usage, what was kept), once it came."""
        end = self._transcript.end
        return None if end is None else view(end)

    def get_final_text(self) -> str:
        """All visible text, when the answer is complete."""
        self.until_done()
        if self._transcript.coverage is Coverage.TAIL:
            self._replace()
        return self._transcript.builder.text

    def get_final_message(self) -> "Message":
        """The whole message as the SDK's own type, when the answer is complete.

        Needs the ``anthropic`` package; `MissingDependency` says so where it is not installed.
        """
        self.until_done()
        if self._transcript.coverage is not Coverage.FULL:
            self._replace()
        return self._transcript.message()

    def _next(self) -> Event | None:
        """The next event; None behind the last one."""
        self._transcript.check_open()
        try:
            return next(self._source, None)
        except Exception as error:
            self._transcript.stop(f"reading stopped ({type(error).__name__})")
            raise

    def _replace(self) -> None:
        self._transcript.replace(self._rebuilt())
        self._raise_unless_done()

    def _rebuilt(self, *, before: Event | None = None) -> MessageBuilder:
        """All events of the log put together, or those before one of them."""
        builder = MessageBuilder()
        with closing(self.request.events()) as log:
            for event in log:
                if before is not None and event.n >= before.n:
                    break
                builder.apply(event.data)
        return builder

    def _raise_unless_done(self) -> None:
        transcript = self._transcript
        if not transcript.ended_well:
            resumed = transcript.coverage is Coverage.TAIL
            transcript.raise_unless_done(
                self.request.text() if resumed else transcript.builder.text
            )
