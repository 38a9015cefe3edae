"""Builds a Message from its events, as plain data. Pure: no SDK, no I/O.

A log may hold events of other versions: what does not fit is ignored, as the SDK does. No event
raises an error in the loop of a reader.
"""

from typing import Any, Final

from penstock import events, json_text
from penstock.streams.blocks import PIECE_FIELDS, TEXT_KINDS, Block, Blocks

#: Delta type → type of the block it belongs to, for a block whose start was not seen.
_KIND_OF = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "tool_use",
}
#: Index for the text of a snapshot: before all blocks that may follow.
_BEFORE_ALL = -1
#: Delta type → the fields of the block that it replaces.
_SET_FIELDS: Final = {
    "signature_delta": ("signature",),
    "compaction_delta": ("content", "encrypted_content"),
}
#: Fields of a message_delta that null resets; null in any other means "unchanged".
_RESET: Final = frozenset({"stop_reason", "stop_sequence", "stop_details"})
#: Under this name Anthropic's documentation returns a tool input that is not JSON to the model.
_INVALID_INPUT: Final = "INVALID_JSON"


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
        return [_built(self._blocks[index]) for index in self._blocks.order]

    @property
    def text(self) -> str:
        """All visible text so far."""
        return self._blocks.text

    def shows(self, index: Any) -> bool:
        """Whether the text of this block is part of the visible text."""
        if self._message is None:  # it began before the cursor of this reader, as did the block
            return True
        block = self._blocks.get(index) if type(index) is int else None
        return block is not None and block.kind == "text"

    def apply(self, data: dict[str, Any]) -> None:
        """Apply one event's ``data``."""
        kind = data.get("type")
        if kind == "content_block_delta":
            if self._message is not None:
                self._delta(data.get("index"), data.get("delta"))
        elif kind == "message_start":
            self._start_message(data.get("message"))
        elif kind == events.SNAPSHOT:
            self._start_with(data["text"])
        elif kind == events.END:
            self._apply_end(data)
        elif self._message is None:
            return
        elif kind == "message_delta":
            self._finish(data)
        elif type(data.get("index")) is int:
            self._apply_to_block(kind, data["index"], data)

    def _apply_to_block(self, kind: Any, index: int, data: dict[str, Any]) -> None:
        if kind == "content_block_start":
            self._start(index, data.get("content_block"))
        elif kind == "content_block_stop":
            self._stop(index)
        elif kind == events.REWIND and type(data.get("offset")) is int:
            self._blocks.rewind(index, data["offset"])

    def _start_message(self, message: Any) -> None:
        self._message = {**message} if isinstance(message, dict) else {}
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

    def _start(self, index: int, block: Any) -> None:
        if not isinstance(block, dict):
            return
        kind = block.get("type", "")
        self._blocks.start(index, _new(kind if isinstance(kind, str) else "", dict(block)))
        if kind == "fallback" and isinstance(block.get("to"), dict) and self._message is not None:
            # It names the model that gave the rest of the answer.
            self._message["model"] = block["to"].get("model", self._message.get("model"))

    def _delta(self, index: Any, delta: Any) -> None:
        kind = delta.get("type") if type(delta) is dict else None
        if type(index) is not int or type(kind) is not str:
            return
        block = self._blocks.get(index)
        if kind in PIECE_FIELDS:
            piece = delta.get(PIECE_FIELDS[kind])
            if type(piece) is not str:
                return
            if block is None:  # its start was before a snapshot
                block = self._blocks[index] = _new(_KIND_OF[kind], {"type": _KIND_OF[kind]})
            if block.kind == _KIND_OF[kind] or (
                kind == "input_json_delta" and block.kind not in TEXT_KINDS
            ):  # the SDK, too, ignores text in a tool call
                block.pieces.append(piece)
        elif block is None:
            return
        elif kind == "citations_delta" and "citation" in delta:
            block.added_citations.append(delta["citation"])
        else:
            for field in _SET_FIELDS.get(kind, ()):
                block.fields[field] = delta.get(field)

    def _stop(self, index: int) -> None:
        block = self._blocks.get(index)
        if block is not None and block.kind not in TEXT_KINDS and block.text:
            block.fields["input"] = _parsed(block.text)
            block.pieces.clear()

    def _finish(self, data: dict[str, Any]) -> None:
        """Apply a message_delta: its ``delta``, and what the API sends next to it."""
        assert self._message is not None
        delta, usage = data.get("delta"), data.get("usage")
        news = {k: v for k, v in data.items() if k not in ("type", "delta", "usage")}
        news |= delta if isinstance(delta, dict) else {}
        self._message.update({k: v for k, v in news.items() if v is not None or k in _RESET})
        counts = usage.items() if isinstance(usage, dict) else ()
        before = self._message.get("usage")
        before = before if isinstance(before, dict) else {}
        self._message["usage"] = {**before, **{k: v for k, v in counts if v is not None}}


def _new(kind: str, fields: dict[str, Any]) -> Block:
    text = fields.get(kind) if kind in TEXT_KINDS else ""
    block = Block(kind, text if isinstance(text, str) else "")
    block.fields = fields
    return block


def _built(block: Block) -> dict[str, Any]:
    """The block as plain data. Half a tool's input is not an input, so it is left out."""
    fields = block.fields
    if block.added_citations:
        citations = fields.get("citations")
        before = citations if isinstance(citations, list) else []
        fields = {**fields, "citations": [*before, *block.added_citations]}
    return {**fields, block.kind: block.text} if block.kind in TEXT_KINDS else fields


def _parsed(pieces: str) -> Any:
    """Parse a tool's input, or as much of it as is valid, as the SDK does.

    ``max_tokens`` may have cut it off, and fine-grained tool streaming does not promise JSON: what
    is not JSON at all is returned as it came.
    """
    try:
        return json_text.loads_cut(pieces)
    except ValueError:
        return {_INVALID_INPUT: pieces}
