"""The message as readers have it so far, from which it can be resumed. Pure.

A worker applies every event that it publishes, and after a takeover the events of the log. The log
may have been written by another version: what does not fit is ignored, as readers do.
"""

from hashlib import sha256
from typing import Any

from penstock import events
from penstock.streams.blocks import Block, Blocks, text_in


class PartialMessage:
    """The published part of a message."""

    def __init__(self) -> None:
        self.started = False  #: message_start was published
        self.blocks = Blocks()
        self.stop_reason: str | None = None
        self.stop_details: dict[str, Any] | None = None  #: of the API, such as why it refused
        self.stopped = False  #: message_stop was published
        self.has_delta = False

    def apply(self, data: dict[str, Any]) -> None:
        """Apply an event that is or will be published."""
        kind = data.get("type")
        if kind == "content_block_delta":
            self.has_delta = True
            self.blocks.add_text(data.get("index"), data.get("delta"))
        elif kind == "content_block_start":
            self._start(data)
        elif kind == "content_block_stop":
            self._stop(data.get("index"))
        elif kind == "message_start":
            self.started = True
        elif kind == "message_delta":
            self._end(data.get("delta"))
        elif kind == "message_stop":
            self.stopped = True
        elif kind == events.REWIND:
            self.blocks.rewind(data["index"], data["offset"])
            self.stop_reason, self.stop_details, self.stopped = None, None, False

    def add_delta(self, index: int, delta: dict[str, Any]) -> None:
        """Apply a delta that was checked, of a block that has started."""
        self.has_delta = True
        if delta["type"] == "text_delta":
            self.blocks[index].pieces.append(delta["text"])

    def _start(self, data: dict[str, Any]) -> None:
        index, block = data.get("index"), data.get("content_block")
        if type(index) is int and isinstance(block, dict):
            self.blocks.start(index, Block(str(block.get("type", "")), text_in(data)))

    def _stop(self, index: Any) -> None:
        block = self.blocks.get(index) if type(index) is int else None
        if block is not None:
            block.open = False

    def _end(self, delta: Any) -> None:
        if not isinstance(delta, dict):
            return
        reason, details = delta.get("stop_reason"), delta.get("stop_details")
        self.stop_reason = reason if reason and isinstance(reason, str) else self.stop_reason
        self.stop_details = details if isinstance(details, dict) else self.stop_details

    def restore(self, text: str, rest: list[dict[str, Any]]) -> None:
        """Prepare for the events of a trimmed log, which are applied next.

        ``rest``: the events that the log still holds. ``text``: all visible text. How the text
        before the log was divided into blocks is lost, and does not matter.
        """
        self.started = True
        placed = [data for data in rest if type(data.get("index")) is int]
        if not placed:
            return
        # Both begin with nothing in their block: the text before belongs to the one before it.
        opens = placed[0].get("type") in ("content_block_start", events.REWIND)
        last = placed[0]["index"] - opens
        if last < 0:
            return
        # After a rewind, only an event of the last block that is left shows that it is open.
        following = next((data for data in placed if data.get("type") != events.REWIND), None)
        still_open = following is not None and following["index"] == last
        ahead = PartialMessage()
        for index in range(last + 1):
            is_open = index == last and still_open
            self.blocks[index] = Block("text", open=is_open)
            ahead.blocks[index] = Block("text", open=is_open)
        for data in rest:
            ahead.apply(data)
        self.blocks[last].pieces = [text[: len(text) - len(ahead.text)]]

    @property
    def complete(self) -> bool:
        """Whether it has a stop reason, and a message_stop or no open block.

        After the stop reason only message_stop can be missing, nothing of the answer. A closed
        connection alone proves nothing: the SDK raises no error when a proxy ends the body early.
        """
        closed = self.stopped or not any(block.open for block in self.blocks.values())
        return closed and self.stop_reason is not None

    @property
    def text(self) -> str:
        """All visible text."""
        return self.blocks.text

    @property
    def text_sha256(self) -> str:
        """SHA-256 of the visible text, with which readers can check theirs."""
        return sha256(self.text.encode()).hexdigest()

    def last_text_block(self) -> int | None:
        """Return the index of the last text block that is more than white space, if any."""
        for index in reversed(self.blocks.order):
            if self.blocks[index].kind == "text" and self.blocks[index].text.strip():
                return index
        return None
