"""The answer as readers have it so far: enough to go on with it after a break; pure.

It is fed with every event that is published, and after a takeover with the events of the log.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from penstock import events


@dataclass(slots=True)
class Block:
    """One content block."""

    kind: str  #: text, thinking, tool_use, …
    open: bool = True
    parts: list[str] = field(default_factory=list)  #: of visible text, for text blocks

    @property
    def text(self) -> str:
        """Its visible text so far."""
        if len(self.parts) > 1:
            self.parts[:] = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""


class PartialMessage:
    """The published answer so far."""

    def __init__(self) -> None:
        self.started = False  #: message_start was published
        self.blocks: list[Block] = []
        self.stop_reason: str | None = None
        self.stopped = False  #: message_stop was published
        self.has_delta = False

    def apply(self, data: dict[str, Any]) -> None:
        """Take a published event."""
        kind = data.get("type")
        if kind == "content_block_delta":
            self.has_delta = True
            if data["delta"].get("type") == "text_delta":
                self.blocks[data["index"]].parts.append(data["delta"]["text"])
        elif kind == "content_block_start":
            block = data["content_block"]
            self.blocks.append(Block(block.get("type", "")))
            if block.get("text"):
                self.blocks[-1].parts.append(block["text"])
        elif kind == "content_block_stop":
            self.blocks[data["index"]].open = False
        elif kind == "message_start":
            self.started = True
        elif kind == "message_delta":
            self.stop_reason = (data.get("delta") or {}).get("stop_reason") or self.stop_reason
        elif kind == "message_stop":
            self.stopped = True
        elif kind == events.REWIND:
            self._rewind(data["index"], data["offset"])

    def restore(self, text: str, rest: list[dict[str, Any]]) -> None:
        """Begin where a trimmed log begins: ``rest`` is what it still has, ``text`` all visible
        text. How the text before it was divided into blocks is lost, and does not matter."""
        self.started = True
        place = next((data for data in rest if "index" in data), None)
        if place is None:
            return
        opens = place["type"] == "content_block_start"
        self.blocks = [Block("text", open=False) for _ in range(place["index"] + (not opens))]
        if not self.blocks:
            return
        self.blocks[-1].open = not opens
        ahead = PartialMessage()
        ahead.blocks = [Block(block.kind, open=block.open) for block in self.blocks]
        for data in rest:
            ahead.apply(data)
        self.blocks[-1].parts = [text[: len(text) - len(ahead.text)]]

    @property
    def complete(self) -> bool:
        """Whether the answer has really ended: with a stop reason, and with message_stop or with
        every block closed. Between the two only a connection can be lost, nothing of the answer.
        A closed connection alone says nothing: the SDK raises no error when a proxy ends the body
        early."""
        closed = self.stopped or not any(block.open for block in self.blocks)
        return closed and self.stop_reason is not None

    @property
    def text(self) -> str:
        """All visible text."""
        return "".join(block.text for block in self.blocks)

    @property
    def text_sha256(self) -> str:
        """Hash of the visible text, for readers to check theirs against."""
        return sha256(self.text.encode()).hexdigest()

    def last_text_block(self) -> int | None:
        """The last block with visible text that is more than white space."""
        for index in range(len(self.blocks) - 1, -1, -1):
            if self.blocks[index].text.strip():
                return index
        return None

    def _rewind(self, index: int, offset: int) -> None:
        kept = self.blocks[: index + 1] if offset else self.blocks[:index]
        if offset and kept:
            kept[-1].parts = [kept[-1].text[:offset]]
        self.blocks = kept
        self.stop_reason, self.stopped = None, False
