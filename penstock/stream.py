"""One streamed request, seen from outside: its handle and the live view of its answer."""

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from penstock.connection import Connection, translated
from penstock.errors import MissingDependency, RequestCanceled, RequestFailed
from penstock.events import Cursor, Event
from penstock.message import MessageBuilder
from penstock.reader import follow
from penstock.records import Record, RequestRecords
from penstock.settings import ClientSettings
from penstock.states import State
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
    ) -> None:
        self.id = id
        self._redis = connection
        self._settings = settings
        self._records = RequestRecords(connection, settings)

    def __repr__(self) -> str:
        return f"<StreamRequest {self.id}>"

    def record(self) -> Record:
        """Its record: state, counters, times, usage, error. Raises `NotFound`."""
        with translated(self._settings):
            return self._records.read(self.id)

    @property
    def state(self) -> State:
        """Where it stands. Raises `NotFound`."""
        return self.record().state

    def text(self) -> str:
        """The visible answer so far, by one look; complete once the state says so."""
        with translated(self._settings):
            return self._records.snapshot(self.id)[1]

    def events(
        self, *, after: Cursor | str | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """Every event behind ``after``, live, up to the last one (`penstock.events`)."""
        cursor = Cursor.parse(after) if isinstance(after, str) else after
        keys = self._settings.keys.request(self.id)
        with translated(self._settings):
            yield from follow(self._redis, keys, after=cursor, timeout=timeout)

    def stream(
        self, *, after: Cursor | str | None = None, timeout: float | None = None
    ) -> "MessageStream":
        """Its answer in the shape of the SDK's stream."""
        return MessageStream(self, self.events(after=after, timeout=timeout))

    def cancel(self, who: str = "client") -> State:
        """Ask for it to be canceled; returns the state it had. What was received is kept."""
        with translated(self._settings):
            return self._records.cancel(self.id, who)

    def result(self, *, timeout: float | None = None) -> "Message":
        """Wait for the end and return the whole message, as `MessageStream.get_final_message`."""
        return self.stream(timeout=timeout).get_final_message()


class MessageStream:
    """A live answer: iterate over its events, or over ``text_stream``. A context manager."""

    def __init__(self, request: StreamRequest, source: Iterator[Event]) -> None:
        self.request = request
        self.cursor = Cursor()  #: behind the last event taken; `attach(id, after=…)` goes on here
        self._source = source
        self._builder = MessageBuilder()

    @property
    def id(self) -> str:
        """The request's id, which is also its Celery task id."""
        return self.request.id

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
        for event in self._source:
            self.cursor = event.cursor
            self._builder.apply(event.data)
            yield view(event.data)
        self._raise_unless_done()

    @property
    def text_stream(self) -> Iterator[str]:
        """The visible answer, piece by piece."""
        for event in self:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                yield event.delta.text

    def until_done(self) -> None:
        """Take every event up to the end."""
        for _ in self:
            pass

    @property
    def end(self) -> View | None:
        """The data of the last event (stop reason, usage, what was kept), once it came."""
        return None if self._builder.end is None else view(self._builder.end)

    def get_final_text(self) -> str:
        """All visible text, when the answer is complete."""
        self.until_done()
        return "".join(block["text"] for block in self._builder.content if block["type"] == "text")

    def get_final_message(self) -> "Message":
        """The whole message as the SDK's own type, when the answer is complete.

        Needs the ``anthropic`` package; `MissingDependency` says so where it is not installed.
        """
        self.until_done()
        try:
            from anthropic.types import Message
        except ImportError:
            raise MissingDependency("the anthropic SDK", "worker") from None
        # `construct` is lenient like the SDK's own parsing: a block type that is newer than the
        # installed SDK must not make a paid answer unreadable.
        self._builder.content  # noqa: B018 - joins what is still in parts
        return Message.construct(**(self._builder.message or {}))

    def _raise_unless_done(self) -> None:
        end: dict[str, Any] | None = self._builder.end
        if end is None or end["state"] == State.DONE:
            return
        text = "".join(b.get("text", "") for b in self._builder.content if b["type"] == "text")
        if end["state"] == State.CANCELED:
            raise RequestCanceled(f"canceled by {end.get('by', 'somebody')}", text=text)
        raise RequestFailed(end.get("error") or {}, text=text)
