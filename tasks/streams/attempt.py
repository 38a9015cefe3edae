"""One call of the API: its events, fitted to what readers already have. Pure.

Blocks keep one numbering over all attempts, so readers see one coherent message: an attempt that
continues a text uses that block's index, and its own message_start is not published.
"""

from typing import Any, Final

import orjson

from penstock import json_text
from penstock.streams.blocks import PIECE_FIELDS
from tasks.streams.continuation import AttemptPlan, Mode
from tasks.streams.event_parser import USAGE_LIMIT, EventParser, ParsedEvent, invalid, plain_delta
from tasks.streams.partial_message import PartialMessage
from tasks.streams.usage import Usage

_THINKING: Final = frozenset({"thinking", "redacted_thinking"})
#: The API's events that cannot come before message_start. (A stray stop is ignored.)
_PARTS: Final = frozenset(
    {
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
    }
)

Event = dict[str, Any]


class Attempt:
    """Fits the events of one API call to the published message."""

    def __init__(self, plan: AttemptPlan, message: PartialMessage, usage: Usage) -> None:
        self._plan = plan
        self._message = message
        self._usage = usage
        self._parser = EventParser()
        self._exact = plan.mode is Mode.START and not usage.earlier and not message.started
        # As the API numbers its blocks:
        self._started = False  # this call's message_start has arrived
        self._starts = 0  # blocks that have started; the API numbers them without gaps
        self._last_text = 0  # the last text block that has started
        self._open: set[int] = set()
        self._filtered: int | None = None  # the block whose text may still be a repetition
        self._numbers: dict[int, int] = {}  # the API's block index → the published one
        self._straight = -1  # the block whose plain deltas need no further look
        self._shift = 0  # from its index to the published one
        # As they are published:
        self._next = plan.first_index
        self._open_block = plan.continues  # open text block that waits for its continuation
        self._pending_start: Event = {}  # start of the filtered block, if it is a new one
        self._waiting: list[Event] = []  # other deltas of the filtered block
        self._begun = plan.mode in (Mode.START, Mode.RESTART)  # content of its own has begun
        self.usage_changed = False  #: the API reported usage; cleared by the relay

    def feed(self, raw: bytes) -> list[ParsedEvent]:
        """Fit one event; returns the events for readers. Raises `StreamInterrupted`."""
        data = plain_delta(raw)
        if data is not None and data["index"] == self._straight:
            if self._shift:
                data["index"] += self._shift
                raw = orjson.dumps(data)
            delta = data["delta"]
            self._usage.receive_piece(delta[PIECE_FIELDS[delta["type"]]])
            self._message.add_delta(data["index"], delta)
            return [(raw, data)]
        fitted = self._feed_other(raw, data)
        self._set_straight()
        return fitted

    def _set_straight(self) -> None:
        """Note whether the next plain deltas need nothing but the published number of their block.

        That is so for nearly all of them.
        """
        current = self._starts - 1
        number = current if self._exact else self._numbers.get(current)
        waits = self._message.stopped or self._parser.waits or current == self._filtered
        if number is None or waits:
            self._straight = -1
        else:
            self._straight, self._shift = current, number - current

    def _feed_other(self, raw: bytes, plain: Event | None) -> list[ParsedEvent]:
        if self._message.stopped:
            return []  # whatever a gateway adds, the answer is complete
        fitted: list[ParsedEvent] = []
        for line, data in self._parser.parse(raw, plain):
            kind = data["type"]
            if not self._takes(kind, data):
                continue
            if kind == "content_block_delta":
                self._usage.receive(data["delta"])
            if self._exact:
                fitted.append((line, data))
                self._message.apply(data)
                continue
            for each in self._fit(line, kind, data):
                fitted.append(each)
                self._message.apply(each[1])
        return fitted

    def _takes(self, kind: str, data: Event) -> bool:
        """Whether the event is used: the SDK ignores a second start or stop, and so do we.

        Raises `StreamInterrupted` for an event that cannot come here.
        """
        if kind == "content_block_delta" and data["index"] == self._starts - 1:
            return True
        if kind == "message_start":
            return self._takes_message(data)
        if kind in _PARTS and not (self._started or self._message.started):
            invalid(f"{kind} is before message_start")
        if kind == "content_block_delta":
            self._check_delta(data)
        elif kind == "content_block_start":
            self._check_start(data)
        elif kind == "content_block_stop":
            if data["index"] not in self._open:
                return False
            self._open.discard(data["index"])
        elif kind == "message_delta":
            self._add_usage(data.get("usage"))
        elif kind == "message_stop" and self._message.stop_reason is None:
            invalid("message_stop is before any stop_reason")
        return True

    def _takes_message(self, data: Event) -> bool:
        if self._started:
            return False
        self._started = True
        self._add_usage(data["message"].get("usage"))
        return True

    def _add_usage(self, reported: Event | None) -> None:
        self._usage.add(reported)
        self.usage_changed = True
        if self._usage.reported_bytes > USAGE_LIMIT:
            invalid(f"the usage has more than {USAGE_LIMIT // 1024} KB")

    def _check_start(self, data: Event) -> None:
        index = data["index"]
        if index != self._starts:  # a block is missing, or is there twice
            invalid(f"content_block_start.index is {index}, but {self._starts} is next")
        self._starts += 1
        self._open.add(index)
        if data["content_block"]["type"] == "text":
            self._last_text = index

    def _check_delta(self, data: Event) -> None:
        index, kind = data["index"], data["delta"]["type"]
        if index >= self._starts:
            invalid(f"content_block_delta.index is {index}, but this block has not started")
        if kind == "text_delta" and index < self._last_text:
            # Readers of the text have the text of the later block already.
            invalid(f"content_block_delta.index is {index}, but text {self._last_text} has started")

    def _fit(self, raw: bytes, kind: str, data: Event) -> list[ParsedEvent]:
        if kind == "message_start":
            return [] if self._message.started else [(raw, data)]
        if kind == "content_block_start":
            return [*self._end_filter(), *self._start(data)]
        if kind == "content_block_delta":
            return self._delta(data)
        if kind == "content_block_stop":
            return self._stop(data)
        if kind == "message_delta":
            data = {**data, "usage": self._usage.total}
            return [*self._end_filter(), *self._close_open_block(), _encoded(data)]
        if kind == "message_stop":
            return [*self._end_filter(), *self._close_open_block(), (raw, data)]
        return [(raw, data)]

    def _start(self, data: Event) -> list[ParsedEvent]:
        index, block = data["index"], data["content_block"]
        if not self._begun and block["type"] in _THINKING:
            return []  # thinking about how to continue is not part of the answer
        if block["type"] != "text" or self._begun:
            self._begun = True
            return [*self._close_open_block(), *self._numbered(data)]
        self._begun, self._filtered = True, index
        if self._open_block is not None:
            self._numbers[index], self._open_block = self._open_block, None
            for citation in block.get("citations") or ():
                self._waiting.append(_citation(index, citation))
        else:
            # It may only repeat what readers have, and the API accepts no empty text block.
            self._pending_start = {**data, "content_block": {**block, "text": ""}}
        return self._text(index, block.get("text") or "")

    def _numbered(self, data: Event) -> list[ParsedEvent]:
        """Return the start of a new block under its published index."""
        number = self._numbers[data["index"]] = self._next
        self._next += 1
        return [_encoded({**data, "index": number})]

    def _delta(self, data: Event) -> list[ParsedEvent]:
        index = data["index"]
        if index == self._filtered:
            if data["delta"]["type"] == "text_delta":
                return self._text(index, data["delta"]["text"])
            self._waiting.append(data)  # until it is known whether the block is published
            return []
        if index not in self._numbers:
            return []  # of a block that is left out
        return [_encoded({**data, "index": self._numbers[index]})]

    def _stop(self, data: Event) -> list[ParsedEvent]:
        index = data["index"]
        rest = self._end_filter() if index == self._filtered else []
        if index not in self._numbers:
            return []
        return [*rest, _encoded({**data, "index": self._numbers[index]})]

    def _text(self, index: int, piece: str) -> list[ParsedEvent]:
        """Return what is new in a piece of the filtered block's text."""
        shown = self._text_events(index, self._plan.text_filter.feed(piece))
        if self._plan.text_filter.decided and index in self._numbers:
            self._filtered = None
            return [*shown, *self._waited(index)]
        return shown

    def _end_filter(self) -> list[ParsedEvent]:
        """Return what is held back of the filtered block, because no more text of it comes."""
        index, self._filtered = self._filtered, None
        if index is None:
            return []
        shown = self._text_events(index, self._plan.text_filter.flush())
        return [*shown, *self._waited(index)]

    def _waited(self, index: int) -> list[ParsedEvent]:
        """Return the deltas that waited for the text before them, unless all was a repetition."""
        waiting, self._waiting = self._waiting, []
        number = self._numbers.get(index)
        return [] if number is None else [_encoded({**each, "index": number}) for each in waiting]

    def _text_events(self, index: int, text: str) -> list[ParsedEvent]:
        if not text:
            return []
        started = [] if index in self._numbers else self._numbered(self._pending_start)
        delta = {"type": "text_delta", "text": text}
        number = self._numbers[index]
        shown = {"type": "content_block_delta", "index": number, "delta": delta}
        return [*started, _encoded(shown)]

    def _close_open_block(self) -> list[ParsedEvent]:
        """Close the text block that was to be continued, because no text came."""
        if self._open_block is None:
            return []
        index, self._open_block = self._open_block, None
        return [_encoded({"type": "content_block_stop", "index": index})]


def missing_end(message: PartialMessage) -> list[ParsedEvent]:
    """Return the message_stop of a complete message if it was lost."""
    return [] if message.stopped else [_encoded({"type": "message_stop"})]


def _citation(index: int, citation: Any) -> Event:
    delta = {"type": "citations_delta", "citation": citation}
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _encoded(data: Event) -> ParsedEvent:
    return json_text.dumps(data), data
