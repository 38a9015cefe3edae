"""What one reader has seen of an answer; pure, shared by the sync and the async stream."""

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
from penstock.streams.message_builder import MessageBuilder

if TYPE_CHECKING:
    from anthropic.types import Message


class Coverage(IntEnum):
    """How much of the answer a transcript holds."""

    TAIL = 1  #: what came behind a cursor
    TEXT = 2  #: all visible text, but not every block
    FULL = 3


class Transcript:
    """Takes events and knows what has been read so far."""

    def __init__(self, after: Cursor | None = None) -> None:
        self.cursor = after or Cursor()  #: behind the last event taken
        self.coverage = Coverage.FULL if after is None else Coverage.TAIL
        self.builder = MessageBuilder()
        self._why_over = ""

    @property
    def end(self) -> dict[str, Any] | None:
        """The data of the last event, once it came."""
        return self.builder.end

    def apply(self, event: Event) -> None:
        """Note an event."""
        if event.type == events.SNAPSHOT:
            self.coverage = Coverage.TEXT
        elif event.type == events.REWIND and event.n == 0:
            self.coverage = Coverage.FULL  # everything comes again from its beginning
        self.cursor = event.cursor
        self.builder.apply(event.data)

    def replace(self, builder: MessageBuilder) -> None:
        """Go on with a builder that has been given all events up to the cursor."""
        self.builder, self.coverage = builder, Coverage.FULL

    def flow(self) -> "TextFlow":
        """A flow of the visible text from here on."""
        return TextFlow(self.builder.text)

    def must_be_rebuilt_for(self, event: Event) -> bool:
        """Whether ``event`` takes back what was before our cursor. Raises `TextRewound` if there
        is no telling what that was."""
        if self.coverage is not Coverage.TAIL or event.type != events.REWIND:
            return False
        if event.n == 0:
            raise TextRewound
        return True

    def read(self, event: Event, flow: "TextFlow") -> str:
        """Note an event; returns the visible text that it adds."""
        self.apply(event)
        if event.type in (events.REWIND, events.SNAPSHOT):
            return flow.reset(self.builder.text)
        return flow.add(_text_of(event.data))

    def stop(self, why: str) -> None:
        """No more events will come; ``why`` is for whoever asks for the final message."""
        self._why_over = self._why_over or why

    def check_open(self) -> None:
        """Raise `NotEnded` if reading was given up before the last event."""
        if self._why_over and self.end is None:
            raise NotEnded(
                f"{self._why_over} at {self.cursor}, before the answer was complete: "
                f"attach(id, after={str(self.cursor)!r}) goes on from there"
            )

    @property
    def ended_well(self) -> bool:
        """Whether there is nothing to raise."""
        return self.end is None or self.end["state"] == State.DONE

    def raise_unless_done(self, text: str) -> None:
        """Raise what the last event tells, if the request did not end well; ``text``: what was
        received of the answer."""
        if self.end is None or self.ended_well:
            return
        if self.end["state"] == State.CANCELED:
            raise RequestCanceled(f"canceled by {self.end.get('by', 'somebody')}", text=text)
        raise RequestFailed(self.end.get("error") or {}, text=text)

    def message(self) -> "Message":
        """The message as the SDK's own type. Raises `MissingDependency`."""
        try:
            from anthropic.types import Message
        except ImportError:
            raise MissingDependency("the anthropic SDK", "worker") from None
        # `construct` is lenient like the SDK's own parsing: a block type that is newer than the
        # installed SDK must not make a paid answer unreadable.
        return Message.construct(**(self.builder.message or {}))


class TextFlow:
    """The visible text as a stream that only grows.

    What has been given out cannot be taken back. When the answer is rewound, new text is held
    against it: as long as it says the same nothing has happened, else `TextRewound`.
    """

    def __init__(self, given: str = "") -> None:
        self._given = [given]
        self._owed = ""  # given out, taken back, and not said again yet

    def add(self, piece: str) -> str:
        """Take new text; returns what of it is to be given out."""
        if self._owed:
            length = min(len(piece), len(self._owed))
            if piece[:length] != self._owed[:length]:
                raise TextRewound
            self._owed, piece = self._owed[length:], piece[length:]
        self._given.append(piece)
        return piece

    def reset(self, text: str) -> str:
        """The visible text is ``text`` now; returns what of it is to be given out."""
        given = "".join(self._given)
        if text.startswith(given):
            self._given, self._owed = [text], ""
            return text[len(given) :]
        if given.startswith(text):
            self._owed = given[len(text) :]
            return ""
        raise TextRewound

    def finish(self) -> None:
        """Nothing more will come. Raises `TextRewound` if less was said than was given out."""
        if self._owed:
            raise TextRewound


def _text_of(data: dict[str, Any]) -> str:
    if data.get("type") == "content_block_delta" and data["delta"].get("type") == "text_delta":
        text: str = data["delta"]["text"]
        return text
    return ""
