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
from penstock.store.record import Record
from penstock.streams.blocks import text_in
from penstock.streams.final_text import TextFinal
from penstock.streams.message_builder import MessageBuilder
from penstock.streams.text_flow import TextFlow

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
        self._held_after: Cursor | None = None  # place before the text that is held back

    @property
    def resume_cursor(self) -> Cursor:
        """The place after the last event whose text the reader has."""
        return self._held_after or self.cursor

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

    def end_as(self, record: Record) -> None:
        """Take the end from the record: the log has ended without a last event.

        The log of a request whose record or log is odd gets none.
        """
        if record.state in (State.FAILED, State.CANCELED):
            error = record.json("error")
            self.builder.end = {
                "state": record.state.value,
                "error": error if isinstance(error, dict) else {},
                **({"by": record.cancel} if record.cancel else {}),
            }

    def replace(self, builder: MessageBuilder) -> None:
        """Continue with a builder that has all events up to the cursor."""
        self.builder, self.coverage = builder, Coverage.FULL

    def flow(self, text_final: str | None = TextFinal.AT_ONCE) -> TextFlow:
        """Return the flow of the visible text from here on; ``text_final``: of the record."""
        return TextFlow(self.builder.text, final=TextFinal.of(text_final))

    def must_be_rebuilt_for(self, event: Event) -> bool:
        """Whether ``event`` discards text from before our cursor, so the log must be read.

        Raises `TextRewound` if that text can no longer be known.
        """
        if self.coverage is not Coverage.TAIL or event.type != events.REWIND:
            return False
        if event.n == 0:
            raise TextRewound
        return True

    def read(self, event: Event, flow: TextFlow) -> str:
        """Apply an event; returns the visible text that became final."""
        before = self.resume_cursor
        self.apply(event)
        piece = self._read(event, flow)
        # A reader that resumes needs the text that is held back again.
        self._held_after = before if flow.holds else None
        return piece

    def _read(self, event: Event, flow: TextFlow) -> str:
        data = event.data
        kind = data.get("type")
        if kind in (events.REWIND, events.SNAPSHOT):
            return flow.reset(self.builder.text)
        if kind == events.END:
            return flow.rest()
        if kind == "content_block_start":
            flow.begin_block()
        text = text_in(data)
        # After a cursor, the start of a block may be missing.
        shown = self.coverage is Coverage.TAIL or self.builder.shows(data.get("index"))
        return flow.add(text) if text and shown else ""

    def stop(self, why: str) -> None:
        """Record why no more events will be read, for `check_open`."""
        self._why_over = self._why_over or why

    def check_open(self) -> None:
        """Raise `NotEnded` if reading stopped before the last event."""
        if self._why_over and self.end is None:
            raise NotEnded(
                f"{self._why_over} at {self.resume_cursor}, before the answer was complete: "
                f"attach(id, after={str(self.resume_cursor)!r}) continues from there"
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
