"""The message as readers have it so far, from which it can be resumed. Pure.

A worker applies every event that it publishes, and after a takeover the events of the log.
"""

from hashlib import sha256
from typing import Any

from penstock import events
from penstock.streams.blocks import Block, Blocks


class PartialMessage:
    """The published part of a message."""

    def __init__(self) -> None:
        self.started = False  #: message_start was published
        self.blocks = Blocks()
        self.stop_reason: str | None = None
        self.stop_details: dict[str, Any] | None = None  #: the API's, such as those of a refusal
        self.stopped = False  #: message_stop was published
        self.has_delta = False

    def apply(self, data: dict[str, Any]) -> None:
        """Apply an event that is or will be published.

        Raises `KeyError`, `IndexError`, `TypeError` or `AttributeError` for an event of an
        unexpected form.
        """
        kind = data.get("type")
        if kind == "content_block_delta":
            self.has_delta = True
            delta = data["delta"]
            if delta.get("type") == "text_delta":
                piece = delta["text"]
                if not isinstance(piece, str):
                    raise TypeError("a text delta without text")
                self.blocks[data["index"]].pieces.append(piece)
        elif kind == "content_block_start":
            self._start(data["index"], data["content_block"])
        elif kind == "content_block_stop":
            self.blocks[data["index"]].open = False
        elif kind == "message_start":
            self.started = True
        elif kind == "message_delta":
            delta = data.get("delta") or {}
            self.stop_reason = delta.get("stop_reason") or self.stop_reason
            self.stop_details = delta.get("stop_details") or self.stop_details
        elif kind == "message_stop":
            self.stopped = True
        elif kind == events.REWIND:
            self.blocks.rewind(data["index"], data["offset"])
            self.stop_reason, self.stop_details, self.stopped = None, None, False

    def _start(self, index: Any, block: dict[str, Any]) -> None:
        # The API numbers the blocks without gaps: after a gap, a block is missing.
        if not isinstance(index, int) or not 0 <= index <= self.blocks.end:
            raise IndexError(f"block {index!r} after {self.blocks.end} blocks")
        text = block.get("text") or ""
        if not isinstance(text, str):
            raise TypeError("the text of a block is not a string")
        self.blocks.start(index, Block(block.get("type", ""), text))

    def restore(self, text: str, rest: list[dict[str, Any]]) -> None:
        """Prepare for the events of a trimmed log, which are applied next.

        ``rest``: the events that the log still holds. ``text``: all visible text. How the text
        before the log was divided into blocks is lost, and does not matter.
        """
        self.started = True
        placed = [data for data in rest if "index" in data]
        if not placed:
            return
        # Both begin with nothing in their block: the text before belongs to the one before it.
        opens = placed[0]["type"] in ("content_block_start", events.REWIND)
        last = placed[0]["index"] - opens
        if last < 0:
            return
        # After a rewind, only an event of the last block that is left shows that it is open.
        following = next((data for data in placed if data["type"] != events.REWIND), None)
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
        for index in sorted(self.blocks, reverse=True):
            if self.blocks[index].kind == "text" and self.blocks[index].text.strip():
                return index
        return None
