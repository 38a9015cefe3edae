"""Put a Message together from its events, as plain data; pure, no SDK, no I/O."""

from typing import Any

from pydantic_core import from_json

from penstock import events

#: Delta type → (field of the delta, type of the block, field of the block it is appended to).
_APPENDED = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("partial_json", "tool_use"),
}
#: Where the text of a snapshot goes: in front of all blocks that may come.
_BEFORE_ALL = -1


class MessageBuilder:
    """Accumulates events in the order of the log. Unknown types are skipped, as the API asks."""

    def __init__(self) -> None:
        self.end: dict[str, Any] | None = None  #: the data of penstock.end, once seen
        self._message: dict[str, Any] | None = None
        self._blocks: dict[int, dict[str, Any]] = {}
        self._parts: dict[int, list[str]] = {}  # per open block, joined when somebody looks

    @property
    def message(self) -> dict[str, Any] | None:
        """The message so far; None until it has started."""
        if self._message is None:
            return None
        return {**self._message, "content": self.content}

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks so far; open ones hold what has arrived of them."""
        for index in self._parts:
            self._join(index)
        return [self._blocks[index] for index in sorted(self._blocks)]

    @property
    def text(self) -> str:
        """All visible text so far."""
        return "".join(block["text"] for block in self.content if block["type"] == "text")

    def apply(self, data: dict[str, Any]) -> None:
        """Take one event's ``data``."""
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
            self._rewind(data["index"], data["offset"])

    def _start_message(self, message: dict[str, Any]) -> None:
        self._message = {**message}
        self._blocks, self._parts = {}, {}

    def _start_with(self, text: str) -> None:
        """Only the text is known of what was before."""
        self._start_message({"type": "message", "role": "assistant"})
        if text:
            self._blocks[_BEFORE_ALL] = {"type": "text", "text": text}

    def _apply_end(self, data: dict[str, Any]) -> None:
        self.end = data
        if self._message is not None:
            for field in ("stop_reason", "usage"):
                self._message.setdefault(field, data.get(field))

    def _start(self, index: int, block: dict[str, Any]) -> None:
        self._drop_from(index)
        self._blocks[index] = dict(block)
        self._parts[index] = []

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        kind = delta.get("type", "")
        if kind in _APPENDED:
            field, block_type = _APPENDED[kind]
            if index not in self._blocks:  # its start was before a snapshot
                self._blocks[index] = {"type": block_type}
            self._parts.setdefault(index, []).append(delta[field])
        elif index not in self._blocks:
            return
        elif kind == "signature_delta":
            self._blocks[index]["signature"] = delta["signature"]
        elif kind == "citations_delta":
            block = self._blocks[index]
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]

    def _stop(self, index: int) -> None:
        if index not in self._blocks:
            return
        self._join(index)
        parts = self._parts.pop(index, None)
        if parts and (pieces := "".join(parts)):
            self._blocks[index]["input"] = _parsed(pieces)

    def _join(self, index: int) -> None:
        """Put text that has arrived into its block. Half a tool's input is not an input."""
        parts, block = self._parts.get(index), self._blocks[index]
        if parts and block["type"] in ("text", "thinking"):
            block[block["type"]] = block.get(block["type"], "") + "".join(parts)
            parts.clear()

    def _rewind(self, index: int, offset: int) -> None:
        self._drop_from(index + 1)
        if index not in self._blocks:
            return
        self._join(index)
        block = self._blocks[index]
        if offset and block["type"] in ("text", "thinking"):
            block[block["type"]] = block[block["type"]][:offset]
        else:
            self._drop_from(index)

    def _drop_from(self, index: int) -> None:
        for gone in [i for i in self._blocks if i >= index]:
            del self._blocks[gone]
            self._parts.pop(gone, None)

    def _finish(self, data: dict[str, Any]) -> None:
        assert self._message is not None
        self._message.update(data.get("delta", {}))
        usage = {k: v for k, v in (data.get("usage") or {}).items() if v is not None}
        self._message["usage"] = {**(self._message.get("usage") or {}), **usage}


def _parsed(pieces: str) -> Any:
    """A tool's input. ``max_tokens`` may have cut it off, and fine-grained tool streaming does
    not promise JSON at all: as much as can be read then, as the SDK does it."""
    try:
        return from_json(pieces, allow_partial=True)
    except ValueError:
        return {}
