"""Answers as bytes: the events of a stream, and the message as one JSON object."""

import time
from collections.abc import Iterator
from typing import Any

import orjson

from penstock.simulator.messages.answers import Answer, Block

# orjson writes UTF-8 without \u escapes, so that a stream can be cut inside a character.
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_DELTA_OF_BLOCK = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}


def event(data: dict[str, Any]) -> bytes:
    """One event, named by its data's type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), orjson.dumps(data))


def message_start(answer: Answer, message_id: str) -> bytes:
    """The first event. Its usage has the input tokens and one output token."""
    message = _message(answer, message_id) | {"content": [], "stop_reason": None}
    message |= {"stop_sequence": None, "usage": usage(answer) | {"output_tokens": 1}}
    return event({"type": "message_start", "message": message})


def block_start(index: int, block: Block) -> bytes:
    """The event that opens a block."""
    return event(
        {"type": "content_block_start", "index": index, "content_block": _content(block, "", {})}
    )


def block_stop(index: int) -> bytes:
    """The event that closes a block."""
    return event({"type": "content_block_stop", "index": index})


def deltas(index: int, block: Block) -> Iterator[bytes]:
    """Yield a block's deltas; a stamped one is a template for `stamp`."""
    kind, key = _DELTA_OF_BLOCK[block.kind]
    head = (
        b"event: content_block_delta\ndata: "
        b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":' % (index, kind, key)
    )
    if block.stamped:
        yield from [head + b'"%d "}}\n\n'] * len(block.pieces)
        return
    dumps = orjson.dumps
    for piece in block.pieces:
        yield head + dumps(piece) + b"}}\n\n"
    if block.kind == "thinking" and block.complete:
        delta = {"type": "signature_delta", "signature": block.signature}
        yield event({"type": "content_block_delta", "index": index, "delta": delta})


def stamp(template: bytes) -> bytes:
    """A stamped delta with the current time."""
    return template % time.monotonic_ns()


def message_delta(answer: Answer) -> bytes:
    """The event that ends the message: its stop reason and its cumulative usage."""
    delta: dict[str, Any] = {
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
    }
    if answer.stop_reason == "refusal":
        delta["stop_details"] = _REFUSAL
    counted = {k: v for k, v in usage(answer).items() if k in _DELTA_USAGE}
    return event({"type": "message_delta", "delta": delta, "usage": counted})


def error_event(envelope: dict[str, Any]) -> bytes:
    """An error in the middle of a stream."""
    return event(envelope)


def message(answer: Answer, message_id: str, *, tier: str = "standard") -> dict[str, Any]:
    """The whole message."""
    whole = _message(answer, message_id)
    if answer.stop_reason == "refusal":
        whole["stop_details"] = _REFUSAL
    whole["content"] = [
        _content(block, _text(block), _arguments(block), signature=block.signature)
        for block in answer.blocks
    ]
    whole["usage"] = usage(answer, tier=tier)
    return whole


def usage(answer: Answer, *, tier: str = "standard") -> dict[str, Any]:
    """The usage of a whole answer."""
    counted: dict[str, Any] = {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": answer.output_tokens,
        "service_tier": tier,
        "inference_geo": "not_available",
    }
    if answer.thinking_tokens:
        counted["output_tokens_details"] = {"thinking_tokens": answer.thinking_tokens}
    return counted


_DELTA_USAGE = frozenset(
    {
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
        "output_tokens_details",
    }
)
_REFUSAL = {
    "type": "refusal",
    "category": None,
    "explanation": "A directive asked the simulator to refuse.",
}


def _message(answer: Answer, message_id: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "usage": {},
    }


def _content(block: Block, text: str, arguments: Any, *, signature: str = "") -> dict[str, Any]:
    if block.kind == "tool_use":
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": arguments}
    if block.kind == "thinking":
        return {"type": "thinking", "thinking": text, "signature": signature}
    return {"type": "text", "text": text}


def _text(block: Block) -> str:
    if block.stamped:
        return "".join(f"{time.monotonic_ns()} " for _ in block.pieces)
    return block.text


def _arguments(block: Block) -> Any:
    # Cut by max_tokens, the text is not JSON any more; then the input is empty.
    return orjson.loads(block.text) if block.kind == "tool_use" and block.complete else {}
