"""What one reader has read of an answer. Pure; shared by sync and async streams."""

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from penstock import events
from penstock.errors import (
    MissingDependency,
    NotEnded,
    RequestCanceled,
    RequestFailed,
    TextRewound,
)
from penstock.events import Cursor, Event
from penstock.states import State
from penstock.streams.blocks import text_in
from penstock.streams.message_builder import MessageBuilder

if TYPE_CHECKING:
    from anthropic.types import Message


class Coverage(IntEnum):
    """How much of the answer a transcript holds."""

    TAIL = 1  #: the events after a cursor
    TEXT = 2  #: all visible text, but not every block
    FULL = 3


class Transcript:
    """Tracks the events that a reader has read."""

    def __init__(self, after: Cursor | None = None) -> None:
        self.cursor = after or Cursor()  #: place of the last event applied
        self.coverage = Coverage.FULL if after is None else Coverage.TAIL
        self.builder = MessageBuilder()
        self._why_over = ""

    @property
    def end(self) -> dict[str, Any] | None:
        """The data of the last event; None until it arrives."""
        return self.builder.end

    def apply(self, event: Event) -> None:
        """Apply an event."""
        kind = event.data.get("type")
        if kind == events.SNAPSHOT:
            self.coverage = Coverage.TEXT
        elif kind == events.REWIND and event.n == 0:
            self.coverage = Coverage.FULL  # all events follow again from the first
        self.cursor = event.cursor
        self.builder.apply(event.data)

    def replace(self, builder: MessageBuilder) -> None:
        """Continue with a builder that has all events up to the cursor."""
        self.builder, self.coverage = builder, Coverage.FULL

    def flow(self) -> "TextFlow":
        """Return the flow of the visible text from here on."""
        return TextFlow(self.builder.text)

    def must_be_rebuilt_for(self, event: Event) -> bool:
        """Whether ``event`` discards text from before our cursor, so the log must be read.

        Raises `TextRewound` if that text can no longer be known.
        """
        if self.coverage is not Coverage.TAIL or event.type != events.REWIND:
            return False
        if event.n == 0:
            raise TextRewound
        return True

    def read(self, event: Event, flow: "TextFlow") -> str:
        """Apply an event; returns the visible text that it adds."""
        self.apply(event)
        data = event.data
        if data.get("type") in (events.REWIND, events.SNAPSHOT):
            return flow.reset(self.builder.text)
        text = text_in(data)
        return flow.add(text) if text and self.builder.shows(data.get("index")) else ""

    def stop(self, why: str) -> None:
        """Record why no more events will be read, for `check_open`."""
        self._why_over = self._why_over or why

    def check_open(self) -> None:
        """Raise `NotEnded` if reading stopped before the last event."""
        if self._why_over and self.end is None:
            raise NotEnded(
                f"{self._why_over} at {self.cursor}, before the answer was complete: "
                f"attach(id, after={str(self.cursor)!r}) continues from there"
            )

    @property
    def ended_well(self) -> bool:
        """Whether the request is still running or is done: nothing to raise."""
        return self.end is None or self.end.get("state") == State.DONE

    def raise_unless_done(self, text: str) -> None:
        """Raise `RequestCanceled` or `RequestFailed` if the last event says so.

        ``text``: the visible text that was received, kept in the exception.
        """
        if self.end is None or self.ended_well:
            return
        if self.end.get("state") == State.CANCELED:
            raise RequestCanceled(
                f"canceled by {self.end.get('by', 'an unknown client')}", text=text
            )
        raise RequestFailed(self.end.get("error") or {}, text=text)

    def message(self) -> "Message":
        """Return the message as the SDK's type. Raises `MissingDependency`."""
        try:
            from anthropic.types import Message
        except ImportError:
            raise MissingDependency("the anthropic SDK", "worker") from None
        # `construct` is lenient like the SDK's own parsing: a block type that is newer than the
        # installed SDK must not make a paid answer unreadable.
        return Message.construct(**(self.builder.message or {}))


class TextFlow:
    """The visible text as a stream that only grows.

    Text that a reader was given cannot be taken back. After a rewind, new text is compared with it:
    while both are equal nothing has happened; otherwise `TextRewound` is raised.
    """

    def __init__(self, given: str = "") -> None:
        self._given = [given]
        self._owed = ""  # given to the reader, rewound, and not repeated yet

    def add(self, piece: str) -> str:
        """Add new text; returns the part that the reader does not have yet."""
        if self._owed:
            length = min(len(piece), len(self._owed))
            if piece[:length] != self._owed[:length]:
                raise TextRewound
            self._owed, piece = self._owed[length:], piece[length:]
        self._given.append(piece)
        return piece

    def reset(self, text: str) -> str:
        """Replace the visible text; returns the part that the reader does not have yet."""
        given = "".join(self._given)
        if text.startswith(given):
            self._given, self._owed = [text], ""
            return text[len(given) :]
        if given.startswith(text):
            self._owed = given[len(text) :]
            return ""
        raise TextRewound

    def finish(self) -> None:
        """End the flow. Raises `TextRewound` if the reader has more text than remains."""
        if self._owed:
            raise TextRewound
