"""A model that is cut after any event and continues as models do, for the tests of attempts."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from penstock import events
from tasks.streams.attempt import Attempt
from tasks.streams.continuation import AttemptPlan, Mode, OnInterrupt, plan_attempt
from tasks.streams.partial_message import PartialMessage
from tasks.streams.usage import Usage

Blocks = list[dict[str, Any]]
Event = dict[str, Any]
#: How much of the visible text a model repeats when it continues.
MANNERS = ("exactly", "with overlap", "from the start")
BODY = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}


@dataclass
class Course:
    """The course of one call of the API."""

    cut: int | None = None  #: events before the interruption; None: it is complete
    manner: str = "exactly"
    thinks: bool = False  #: thinks again before it continues
    piece: int = 3  #: characters in a delta
    at_start: int = 0  #: characters of each text that come with the start of its block
    takeover: bool = False  #: another worker makes the next call


@dataclass
class Published:
    """What has been published to readers."""

    events: list[Event] = field(default_factory=list)
    answer: PartialMessage = field(default_factory=PartialMessage)
    usage: Usage = field(default_factory=Usage)
    modes: list[Mode] = field(default_factory=list)

    def append(self, event: Event) -> None:
        self.events.append(event)

    def hand_over(self) -> None:
        """Rebuild the state from the log and the record, as another worker does."""
        self.answer, self.usage = PartialMessage(), Usage(self.usage.total)
        for event in self.events:
            self.answer.apply(event)


def pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def delta(index: int, kind: str, name: str, piece: str) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: piece}}


def wire(blocks: Blocks, size: int, at_start: int = 0) -> list[Event]:
    """The API's events for these blocks.

    ``size`` is the number of characters in a delta, ``at_start`` of those that come with the start
    of a text block. The API sends none with it; others who speak its protocol may.
    """
    message = {"role": "assistant", "content": [], "usage": {"input_tokens": 10}}
    found: list[Event] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    for index, block in enumerate(blocks):
        found += _wire_block(index, block, size, at_start)
    end = {"stop_reason": "end_turn"}
    found.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}})
    return [*found, {"type": "message_stop"}]


def _wire_block(index: int, block: dict[str, Any], size: int, at_start: int) -> list[Event]:
    kind = block["type"]
    empty: dict[str, Any] = {**block}
    if kind == "text":
        empty["text"], rest = block["text"][:at_start], block["text"][at_start:]
        empty.pop("citations", None)
        deltas = [delta(index, "text_delta", "text", p) for p in pieces(rest, size)]
        deltas += [
            {
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": "citations_delta", "citation": each},
            }
            for each in block.get("citations", [])
        ]
    elif kind == "thinking":
        empty |= {"thinking": "", "signature": ""}
        thought = pieces(block["thinking"], size)
        deltas = [delta(index, "thinking_delta", "thinking", piece) for piece in thought]
        deltas.append(delta(index, "signature_delta", "signature", block["signature"]))
    else:
        empty["input"] = {}
        raw = pieces(orjson.dumps(block["input"]).decode(), size)
        deltas = [delta(index, "input_json_delta", "partial_json", piece) for piece in raw]
    start = {"type": "content_block_start", "index": index, "content_block": empty}
    return [start, *deltas, {"type": "content_block_stop", "index": index}]


def text_of(blocks: Blocks) -> str:
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def answer_to(planned: AttemptPlan, answer: Blocks, said: str, course: Course) -> Blocks:
    """The model's answer to this plan; ``said`` is the visible text that it is shown."""
    if planned.mode in (Mode.START, Mode.RESTART):
        return answer
    left = len(said)
    rest: Blocks = []
    for block in answer:
        if block["type"] == "text" and left >= 0:
            kept, left = block["text"][left:], left - len(block["text"])
            if kept and left < 0:
                rest.append({**block, "text": kept})
        elif left <= 0 and (left < 0 or _all_said(answer, block, said)):
            rest.append(block)
    again = {"exactly": 0, "with overlap": 24, "from the start": len(said)}[course.manner]
    if planned.mode is Mode.PREFILL:
        again = len(said) - len(said.rstrip())  # its prompt has no trailing white space
    repeated = said[len(said) - min(again, len(said)) :]
    if repeated and rest and rest[0]["type"] == "text" and planned.continues is not None:
        rest[0] = {**rest[0], "text": repeated + rest[0]["text"]}
    elif repeated:
        rest.insert(0, {"type": "text", "text": repeated})
    thought = {"type": "thinking", "thinking": "Where was I?", "signature": "other"}
    return [thought, *rest] if course.thinks and planned.mode is Mode.USER_TURN else rest


def _all_said(answer: Blocks, block: dict[str, Any], said: str) -> bool:
    """Whether ``block`` comes after all the text that was said."""
    place = next(i for i, each in enumerate(answer) if each is block)
    return bool(said) and text_of(answer[:place]) == said


def make_call(
    published: Published,
    answer: Blocks,
    course: Course,
    *,
    prefill: bool,
    on_interrupt: OnInterrupt,
) -> bool:
    """Make one call of the API; returns whether the answer is complete."""
    planned = plan_attempt(published.answer, BODY, on_interrupt, prefill=prefill)
    published.modes.append(planned.mode)
    published.usage.next_attempt()
    said = published.answer.text
    if planned.rewind:
        index, offset = planned.rewind
        rewind = {"type": events.REWIND, "index": index, "offset": offset}
        published.append(rewind)
        published.answer.apply(rewind)
        said = published.answer.text
    attempt = Attempt(planned, published.answer, published.usage)
    sent = wire(answer_to(planned, answer, said, course), course.piece, course.at_start)
    for event in sent[: course.cut]:
        for line, data in attempt.feed(orjson.dumps(event)):
            assert orjson.loads(line) == data
            published.append(data)
    return published.answer.complete


def check_coherent(published: list[Event]) -> None:
    """Check the rules that every reader relies on."""
    assert [event["type"] for event in published].count("message_start") == 1
    assert published[0]["type"] == "message_start"
    open_block, blocks = None, 0
    for event in published:
        kind = event["type"]
        if kind == "content_block_start":
            assert (open_block, event["index"]) == (None, blocks)
            open_block, blocks = blocks, blocks + 1
        elif kind == "content_block_delta":
            assert event["index"] == open_block
        elif kind == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
        elif kind == events.REWIND:
            assert event["index"] <= blocks
            blocks = event["index"]
            open_block = open_block if open_block is not None and open_block < blocks else None
    assert open_block is None
    assert published[-1]["type"] == "message_stop"
