"""One call of the API: its events, fitted to what readers already have. Pure.

Blocks keep one numbering over all attempts, so readers see one coherent message: an attempt that
continues a text uses that block's index, and its own message_start is not published.
"""

from typing import Any, Final

import orjson

from tasks.api.message_stream import StreamInterrupted
from tasks.streams.continuation import AttemptPlan, Mode
from tasks.streams.partial_message import PartialMessage
from tasks.streams.usage import Usage

_THINKING: Final = frozenset({"thinking", "redacted_thinking"})

#: An event for readers: its JSON, and the same parsed.
FittedEvent = tuple[bytes, dict[str, Any]]


class Attempt:
    """Fits the events of one API call to the published message."""

    def __init__(self, plan: AttemptPlan, message: PartialMessage, usage: Usage) -> None:
        self._plan = plan
        self._message = message
        self._usage = usage
        self._exact = plan.mode is Mode.START and not usage.earlier
        self._numbers: dict[int, int] = {}  # the API's block index → the published one
        self._next = plan.first_index
        self._open_block = plan.continues  # open text block that waits for its continuation
        self._filtered_index: int | None = None  # the API's index of the filtered block
        self._pending_start: dict[str, Any] = {}  # its start, while all of it is a repetition
        self._begun = plan.mode in (Mode.START, Mode.RESTART)  # content of its own has begun
        self.usage_changed = False  #: the API reported usage; cleared by the relay

    def feed(self, raw: bytes) -> list[FittedEvent]:
        """Fit one event; returns the events for readers. Raises `StreamInterrupted`."""
        try:
            data = orjson.loads(raw)
            kind = data["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise StreamInterrupted("api_error", "an event is not valid JSON") from error
        if kind == "ping":
            return []
        if kind == "error":
            problem = data.get("error")
            if not isinstance(problem, dict):  # a gateway's
                problem = {"message": str(problem)}
            raise StreamInterrupted(
                problem.get("type", "api_error"), problem.get("message", "no message")
            )
        try:
            return self._fitted(raw, kind, data)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise StreamInterrupted(
                "api_error", f"a {kind} event has an unexpected form"
            ) from error

    def _fitted(self, raw: bytes, kind: str, data: dict[str, Any]) -> list[FittedEvent]:
        if kind == "message_start":
            self._usage.add(data["message"].get("usage"))
            self.usage_changed = True
        elif kind == "message_delta":
            self._usage.add(data.get("usage"))
            self.usage_changed = True
        elif kind == "content_block_delta":
            self._usage.receive(data["delta"])
        fitted = [(raw, data)] if self._exact else self._fit(raw, kind, data)
        for _, event in fitted:
            self._message.apply(event)
        return fitted

    def _fit(self, raw: bytes, kind: str, data: dict[str, Any]) -> list[FittedEvent]:
        if kind == "message_start":
            return [] if self._message.started else [(raw, data)]
        if kind == "content_block_start":
            return self._start(data)
        if kind == "content_block_delta":
            return self._delta(data)
        if kind == "content_block_stop":
            return self._stop(data)
        if kind == "message_delta":
            return [*self._close_open_block(), _encoded({**data, "usage": self._usage.total})]
        return [(raw, data)]

    def _start(self, data: dict[str, Any]) -> list[FittedEvent]:
        index, block = data["index"], data["content_block"]
        if not self._begun and block["type"] in _THINKING:
            return []  # thinking about how to continue is not part of the answer
        if block["type"] == "text" and not self._begun:
            self._begun, self._filtered_index = True, index
            if self._open_block is not None:
                self._numbers[index], self._open_block = self._open_block, None
            else:
                # It may only repeat what readers have, and the API accepts no empty text block.
                self._pending_start = {**data, "content_block": {**block, "text": ""}}
            return self._text(index, block.get("text", ""))
        self._begun = True
        return [*self._close_open_block(), *self._numbered(data)]

    def _numbered(self, data: dict[str, Any]) -> list[FittedEvent]:
        """Return the start of a new block under its published index."""
        number = self._numbers[data["index"]] = self._next
        self._next += 1
        return [_encoded({**data, "index": number})]

    def _delta(self, data: dict[str, Any]) -> list[FittedEvent]:
        index = data["index"]
        if index == self._filtered_index and data["delta"].get("type") == "text_delta":
            return self._text(index, data["delta"]["text"])
        if index not in self._numbers:
            return []
        return [_encoded({**data, "index": self._numbers[index]})]

    def _stop(self, data: dict[str, Any]) -> list[FittedEvent]:
        index = data["index"]
        rest = self._flush(index)
        if index not in self._numbers:
            return []
        return [*rest, _encoded({**data, "index": self._numbers[index]})]

    def _text(self, index: int, piece: str) -> list[FittedEvent]:
        return self._text_events(index, self._plan.text_filter.feed(piece))

    def _flush(self, index: int) -> list[FittedEvent]:
        if index != self._filtered_index:
            return []
        self._filtered_index = None
        return self._text_events(index, self._plan.text_filter.flush())

    def _text_events(self, index: int, text: str) -> list[FittedEvent]:
        if not text:
            return []
        started = [] if index in self._numbers else self._numbered(self._pending_start)
        delta = {"type": "text_delta", "text": text}
        number = self._numbers[index]
        shown = {"type": "content_block_delta", "index": number, "delta": delta}
        return [*started, _encoded(shown)]

    def _close_open_block(self) -> list[FittedEvent]:
        """Close the text block that was to be continued, because no text came."""
        if self._open_block is None:
            return []
        index, self._open_block = self._open_block, None
        return [_encoded({"type": "content_block_stop", "index": index})]


def missing_end(message: PartialMessage) -> list[FittedEvent]:
    """Return the message_stop of a complete message if it was lost."""
    return [] if message.stopped else [_encoded({"type": "message_stop"})]


def _encoded(data: dict[str, Any]) -> FittedEvent:
    return orjson.dumps(data), data
