"""One call of the API: its events, fitted to what readers have already; pure.

Blocks keep one numbering over all attempts, so readers see one coherent message: an attempt that
continues a text gets that block's number, and its own message_start is not shown.
"""

from typing import Any, Final

import orjson

from tasks.api.message_stream import StreamInterrupted
from tasks.streams.continuation import Mode, Plan
from tasks.streams.partial_message import Answer
from tasks.streams.usage import Usage

_THINKING: Final = frozenset({"thinking", "redacted_thinking"})

Fitted = tuple[bytes, dict[str, Any]]


class Attempt:
    """Fits the events of one API call."""

    def __init__(self, plan: Plan, answer: Answer, usage: Usage) -> None:
        self._plan = plan
        self._answer = answer
        self._usage = usage
        self._exact = plan.mode is Mode.START and not usage.earlier
        self._numbers: dict[int, int] = {}  # the API's block number → the published one
        self._next = plan.first
        self._joining = plan.joins  # the open text block that waits for its continuation
        self._seam_at: int | None = None  # the API's number of the block behind the seam
        self._unshown: dict[str, Any] = {}  # the start of that block while nothing of it is new
        self._seamed = plan.mode in (Mode.START, Mode.RESTART)  # whether the seam is behind us
        self.noted = False  #: what the attempt costs was reported; set anew by whoever reads it

    def take(self, raw: bytes) -> list[Fitted]:
        """What readers get of one event, as JSON and parsed. Raises `StreamInterrupted`."""
        try:
            data = orjson.loads(raw)
            kind = data["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise StreamInterrupted("api_error", "an event is not valid JSON") from error
        if kind == "ping":
            return []
        if kind == "error":
            told = data.get("error")
            if not isinstance(told, dict):  # a gateway's
                told = {"message": str(told)}
            raise StreamInterrupted(
                told.get("type", "api_error"), told.get("message", "no message")
            )
        try:
            return self._taken(raw, kind, data)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise StreamInterrupted(
                "api_error", f"a {kind} event has an unexpected form"
            ) from error

    def _taken(self, raw: bytes, kind: str, data: dict[str, Any]) -> list[Fitted]:
        if kind == "message_start":
            self._usage.add(data["message"].get("usage"))
            self.noted = True
        elif kind == "message_delta":
            self._usage.add(data.get("usage"))
            self.noted = True
        fitted = [(raw, data)] if self._exact else self._fit(raw, kind, data)
        for _, event in fitted:
            self._answer.apply(event)
        return fitted

    def _fit(self, raw: bytes, kind: str, data: dict[str, Any]) -> list[Fitted]:
        if kind == "message_start":
            return [] if self._answer.started else [(raw, data)]
        if kind == "content_block_start":
            return self._start(data)
        if kind == "content_block_delta":
            return self._delta(data)
        if kind == "content_block_stop":
            return self._stop(data)
        if kind == "message_delta":
            return [*self._close_joined(), _encoded({**data, "usage": self._usage.total})]
        return [(raw, data)]

    def _start(self, data: dict[str, Any]) -> list[Fitted]:
        index, block = data["index"], data["content_block"]
        if not self._seamed and block["type"] in _THINKING:
            return []  # thoughts about how to go on belong to no reader's message
        if block["type"] == "text" and not self._seamed:
            self._seamed, self._seam_at = True, index
            if self._joining is not None:
                self._numbers[index], self._joining = self._joining, None
            else:
                # It may be nothing but a repetition, and the API takes no empty block back.
                self._unshown = {**data, "content_block": {**block, "text": ""}}
            return self._text(index, block.get("text", ""))
        self._seamed = True
        return [*self._close_joined(), *self._numbered(data)]

    def _numbered(self, data: dict[str, Any]) -> list[Fitted]:
        """The start of a new block under its published number."""
        number = self._numbers[data["index"]] = self._next
        self._next += 1
        return [_encoded({**data, "index": number})]

    def _delta(self, data: dict[str, Any]) -> list[Fitted]:
        index = data["index"]
        if index == self._seam_at and data["delta"].get("type") == "text_delta":
            return self._text(index, data["delta"]["text"])
        if index not in self._numbers:
            return []
        return [_encoded({**data, "index": self._numbers[index]})]

    def _stop(self, data: dict[str, Any]) -> list[Fitted]:
        index = data["index"]
        rest = self._flush(index)
        if index not in self._numbers:
            return []
        return [*rest, _encoded({**data, "index": self._numbers[index]})]

    def _text(self, index: int, piece: str) -> list[Fitted]:
        return self._shown(index, self._plan.seam.feed(piece))

    def _flush(self, index: int) -> list[Fitted]:
        if index != self._seam_at:
            return []
        self._seam_at = None
        return self._shown(index, self._plan.seam.flush())

    def _shown(self, index: int, text: str) -> list[Fitted]:
        if not text:
            return []
        started = [] if index in self._numbers else self._numbered(self._unshown)
        delta = {"type": "text_delta", "text": text}
        number = self._numbers[index]
        shown = {"type": "content_block_delta", "index": number, "delta": delta}
        return [*started, _encoded(shown)]

    def _close_joined(self) -> list[Fitted]:
        """Close the text block that was to be continued, since no text came."""
        if self._joining is None:
            return []
        index, self._joining = self._joining, None
        return [_encoded({"type": "content_block_stop", "index": index})]


def ending(answer: Answer) -> list[Fitted]:
    """What readers lack of a complete answer: its message_stop, if that was lost with the
    connection."""
    return [] if answer.stopped else [_encoded({"type": "message_stop"})]


def _encoded(data: dict[str, Any]) -> Fitted:
    return orjson.dumps(data), data
