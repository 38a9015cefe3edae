"""Builds a Message from its events, as plain data. Pure: no SDK, no I/O."""

from typing import Any

from pydantic_core import from_json

from penstock import events
from penstock.streams.blocks import PIECE_FIELDS, TEXT_KINDS, Block, Blocks

#: Delta type → type of the block it belongs to, for a block whose start was not seen.
_KIND_OF = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "tool_use",
}
#: Index for the text of a snapshot: before all blocks that may follow.
_BEFORE_ALL = -1


class MessageBuilder:
    """Builds the message, event by event; unknown event types are skipped."""

    def __init__(self) -> None:
        self.end: dict[str, Any] | None = None  #: the data of penstock.end; None until it arrives
        self._message: dict[str, Any] | None = None
        self._blocks = Blocks()

    @property
    def message(self) -> dict[str, Any] | None:
        """The message so far; None until it has started."""
        if self._message is None:
            return None
        return {**self._message, "content": self.content}

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks so far; open ones hold what has arrived of them."""
        return [_built(self._blocks[index]) for index in sorted(self._blocks)]

    @property
    def text(self) -> str:
        """All visible text so far."""
        return self._blocks.text

    def apply(self, data: dict[str, Any]) -> None:
        """Apply one event's ``data``."""
        kind = data.get("type")
        if kind == "message_start":
            self._start_message(data["message"])
        elif kind == events.SNAPSHOT:
            self._start_with(data["text"])
        elif kind == events.END:
            self._apply_end(data)
        elif self._message is None:
            return
        elif kind == "content_block_start":
            self._start(data["index"], data["content_block"])
        elif kind == "content_block_delta":
            self._delta(data["index"], data["delta"])
        elif kind == "content_block_stop":
            self._stop(data["index"])
        elif kind == "message_delta":
            self._finish(data)
        elif kind == events.REWIND:
            self._blocks.rewind(data["index"], data["offset"])

    def _start_message(self, message: dict[str, Any]) -> None:
        self._message = {**message}
        self._blocks.clear()

    def _start_with(self, text: str) -> None:
        """Start from a snapshot: only the visible text of the earlier events is known."""
        self._start_message({"type": "message", "role": "assistant"})
        if text:
            self._blocks[_BEFORE_ALL] = _new("text", {"type": "text", "text": text})

    def _apply_end(self, data: dict[str, Any]) -> None:
        self.end = data
        if self._message is not None:
            for field in ("stop_reason", "usage"):
                self._message.setdefault(field, data.get(field))

    def _start(self, index: int, block: dict[str, Any]) -> None:
        self._blocks.start(index, _new(block.get("type", ""), dict(block)))

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        kind = delta.get("type", "")
        block = self._blocks.get(index)
        if kind in PIECE_FIELDS:
            if block is None:  # its start was before a snapshot
                block = self._blocks[index] = _new(_KIND_OF[kind], {"type": _KIND_OF[kind]})
            block.pieces.append(delta[PIECE_FIELDS[kind]])
        elif block is None:
            return
        elif kind == "signature_delta":
            block.fields["signature"] = delta["signature"]
        elif kind == "citations_delta":
            citations = block.fields.get("citations") or []
            block.fields["citations"] = [*citations, delta["citation"]]

    def _stop(self, index: int) -> None:
        block = self._blocks.get(index)
        if block is not None and block.kind not in TEXT_KINDS and block.text:
            block.fields["input"] = _parsed(block.text)
            block.pieces.clear()

    def _finish(self, data: dict[str, Any]) -> None:
        assert self._message is not None
        self._message.update(data.get("delta", {}))
        usage = {k: v for k, v in (data.get("usage") or {}).items() if v is not None}
        self._message["usage"] = {**(self._message.get("usage") or {}), **usage}


def _new(kind: str, fields: dict[str, Any]) -> Block:
    block = Block(kind, fields.get(kind) or "" if kind in TEXT_KINDS else "")
    block.fields = fields
    return block


def _built(block: Block) -> dict[str, Any]:
    """The block as plain data. Half a tool's input is not an input, so it is left out."""
    return {**block.fields, block.kind: block.text} if block.kind in TEXT_KINDS else block.fields


def _parsed(pieces: str) -> Any:
    """Parse a tool's input, or as much of it as is valid, as the SDK does.

    ``max_tokens`` may have cut it off, and fine-grained tool streaming does not promise JSON.
    """
    try:
        return from_json(pieces, allow_partial=True)
    except ValueError:
        return {}
