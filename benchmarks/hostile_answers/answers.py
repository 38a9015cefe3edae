"""The answers: hostile ones of any size, and an ordinary one as the baseline. Pure."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, repeat
from typing import Any, Final

import orjson

Event = dict[str, Any]

#: Characters of an ordinary delta.
_PIECE: Final = 5


def frame(data: Event) -> bytes:
    """Render an event as the API sends it."""
    return b"event: %s\ndata: %s\n\n" % (data["type"].encode(), orjson.dumps(data))


def start(index: int, **block: Any) -> bytes:
    """Render the start of a content block, a text unless ``block`` says otherwise."""
    content = block or {"type": "text", "text": ""}
    return frame({"type": "content_block_start", "index": index, "content_block": content})


def delta(piece: str, index: int = 0, kind: str = "text_delta", field: str = "text") -> bytes:
    """Render one delta."""
    part = {"type": kind, field: piece}
    return frame({"type": "content_block_delta", "index": index, "delta": part})


def stop(index: int = 0) -> bytes:
    """Render the stop of a block."""
    return frame({"type": "content_block_stop", "index": index})


def text_in_deltas(text: str, size: int = _PIECE) -> Iterator[bytes]:
    """Render a block of text in deltas of ``size`` characters."""
    yield start(0)
    for at in range(0, len(text), size):
        yield delta(text[at : at + size])


def words(size: int) -> str:
    """Return a text in which no word occurs twice."""
    return "".join(f"w{n} " for n in range(size // 6 + 1))[:size]


def _ordinary(size: int) -> Iterator[bytes]:
    return text_in_deltas(words(size))


def _repeated_character(size: int) -> Iterator[bytes]:
    return text_in_deltas("a" * size)


def _nearly_periodic(size: int) -> Iterator[bytes]:
    """Render a text whose only other character comes just before the interruption."""
    half = size // 2
    return text_in_deltas("a" * (half - 50) + "b" + "a" * (size - half + 49))


def _repeated_unit(size: int) -> Iterator[bytes]:
    return text_in_deltas((("a" * 1_000 + "b") * (size // 1_001 + 1))[:size] + "c")


def _ruler(size: int) -> Iterator[bytes]:
    """Render a text that is held back to the end: it never becomes final."""
    return text_in_deltas("-" * size, 1)


def _tiny_deltas(count: int) -> Iterator[bytes]:
    return text_in_deltas(words(count), 1)


def _one_delta(size: int) -> Iterator[bytes]:
    return text_in_deltas(words(size), size)


def _blocks(count: int) -> Iterator[bytes]:
    for index in range(count):
        yield start(index) + delta(f"block {index} ", index) + stop(index)


def _citations(count: int) -> Iterator[bytes]:
    yield start(0)
    yield delta("A text of which each part is cited. ")
    cited = {"type": "char_location", "cited_text": "part", "document_index": 0}
    part = {"type": "citations_delta", "citation": cited}
    for _ in range(count):
        yield frame({"type": "content_block_delta", "index": 0, "delta": part})


def _tool_input(pieces: Iterable[str]) -> Iterator[bytes]:
    yield start(0, type="tool_use", id="toolu_1", name="look", input={})
    for piece in pieces:
        yield delta(piece, 0, "input_json_delta", "partial_json")
    yield stop()


def _deep_tool_input(count: int) -> Iterator[bytes]:
    return _tool_input(chain(['{"a":'], repeat("[", count), repeat("]", count), ["}"]))


def _long_tool_input(count: int) -> Iterator[bytes]:
    return _tool_input(chain(['{"a":[0'], repeat(", 12345", count), ["]}"]))


def _halves(count: int) -> Iterator[bytes]:
    """Render deltas that each end in the first half of a character."""
    yield start(0)
    for n in range(count):
        half = b"\\ud83d" if n % 2 else b"\\ude00 \\ud83d"
        yield delta("HALF").replace(b"HALF", half)


def _delta_of_halves(count: int) -> Iterator[bytes]:
    yield start(0)
    yield delta("HALF").replace(b"HALF", b"\\ud83d" * count)


def _line_without_end(size: int) -> Iterator[bytes]:
    yield start(0)
    yield delta("The answer begins, and then ")
    yield b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
    for at in range(0, size, 65_536):
        yield b"x" * min(65_536, size - at)
    yield b'"}}\n\n'


def _comments(count: int) -> Iterator[bytes]:
    yield start(0)
    for n in range(count):
        yield b": a comment\n\n" if n % 2 else b'event: ping\ndata: {"type": "ping"}\n\n'
    yield b": a comment\n" * count + b"\n"
    yield delta("After all comments there is a text. ")


#: Name → the events of the answer's content, and the size of a full run.
KINDS: Final[dict[str, tuple[Callable[[int], Iterator[bytes]], int]]] = {
    "ordinary": (_ordinary, 500_000),
    "repeated_character": (_repeated_character, 500_000),
    "nearly_periodic": (_nearly_periodic, 500_000),
    "repeated_unit": (_repeated_unit, 500_000),
    "ruler": (_ruler, 100_000),
    "tiny_deltas": (_tiny_deltas, 500_000),
    "one_delta": (_one_delta, 10_000_000),
    "blocks": (_blocks, 5_000),
    "citations": (_citations, 50_000),
    "deep_tool_input": (_deep_tool_input, 100_000),
    "long_tool_input": (_long_tool_input, 100_000),
    "halves": (_halves, 50_000),
    "delta_of_halves": (_delta_of_halves, 500_000),
    "line_without_end": (_line_without_end, 15_000_000),
    "comments": (_comments, 50_000),
}


_MESSAGE: Final[Event] = {
    "id": "msg_hostile",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-5-5",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 1},
}


def answer(kind: str, size: int, *, whole: bool) -> Iterator[bytes]:
    """Render an answer; one that is not ``whole`` is interrupted after half of its events."""
    content, _ = KINDS[kind]
    yield frame({"type": "message_start", "message": _MESSAGE})
    pieces = content(size)
    if not whole:
        yield from islice(pieces, sum(1 for _ in content(size)) // 2)
        return
    yield from pieces
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    yield frame({"type": "message_delta", "delta": end, "usage": {"output_tokens": size}})
    yield frame({"type": "message_stop"})
