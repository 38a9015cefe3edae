"""Put a Message together from its events, as plain data; pure, no SDK, no I/O."""

from typing import Any

import orjson

from penstock import events

#: Delta type → (field of the delta, field of the block it is appended to).
_APPENDED = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
}


class MessageBuilder:
    """Accumulates events in the order of the log. Unknown types are skipped, as the API asks."""

    def __init__(self) -> None:
        self.message: dict[str, Any] | None = None  #: None until message_start was seen
        self.end: dict[str, Any] | None = None  #: the data of penstock.end, once seen
        self._parts: dict[int, list[str]] = {}  # per open block, joined when it closes

    def apply(self, data: dict[str, Any]) -> None:
        """Take one event's ``data``."""
        kind = data.get("type")
        if kind == "message_start":
            self.message = {**data["message"], "content": []}
        elif kind == events.END:
            self._join_all()
            self.end = data
        elif self.message is None:
            return
        elif kind == "content_block_start":
            self._start(data["index"], data["content_block"])
        elif kind == "content_block_delta":
            self._delta(data["index"], data["delta"])
        elif kind == "content_block_stop":
            self._join(data["index"])
        elif kind == "message_delta":
            self._finish(data)
        elif kind == events.REWIND:
            self._rewind(data["index"], data["offset"])

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks so far; open ones hold what has arrived of them."""
        self._join_all(close=False)
        return self.message["content"] if self.message else []

    def _start(self, index: int, block: dict[str, Any]) -> None:
        content = self._content()
        del content[index:]
        content.append(dict(block))
        self._parts[index] = []

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        block = self._content()[index]
        if kind in _APPENDED:
            self._parts[index].append(delta[_APPENDED[kind][0]])
        elif kind == "input_json_delta":
            self._parts[index].append(delta["partial_json"])
        elif kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]

    def _join(self, index: int, *, close: bool = True) -> None:
        parts = self._parts.pop(index, None) if close else self._parts.get(index)
        if not parts:
            return
        block = self._content()[index]
        joined = "".join(parts)
        if block["type"] in ("text", "thinking"):
            block[block["type"]] = block.get(block["type"], "") + joined
            if not close:
                parts.clear()
        elif close:
            block["input"] = orjson.loads(joined)

    def _join_all(self, *, close: bool = True) -> None:
        for index in list(self._parts):
            if close and self._content()[index]["type"] not in ("text", "thinking"):
                continue  # half a tool's input is not an input
            self._join(index, close=close)

    def _rewind(self, index: int, offset: int) -> None:
        self._join_all(close=False)
        content = self._content()
        del content[index + 1 :]
        if index < len(content):
            block = content[index]
            if offset and block["type"] in ("text", "thinking"):
                block[block["type"]] = block[block["type"]][:offset]
            else:
                del content[index:]
        self._parts = {i: parts for i, parts in self._parts.items() if i < len(content)}

    def _finish(self, data: dict[str, Any]) -> None:
        assert self.message is not None
        self.message.update(data.get("delta", {}))
        usage = {k: v for k, v in (data.get("usage") or {}).items() if v is not None}
        self.message["usage"] = {**self.message.get("usage", {}), **usage}

    def _content(self) -> list[dict[str, Any]]:
        assert self.message is not None
        content: list[dict[str, Any]] = self.message["content"]
        return content
