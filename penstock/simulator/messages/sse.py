"""Answers as bytes: the events of a stream, and the message as one JSON object."""

import time
from collections.abc import Iterator
from typing import Any

import orjson

from penstock.simulator.messages import server_tools
from penstock.simulator.messages.answers import Answer
from penstock.simulator.messages.block import Block

# orjson writes UTF-8 without \u escapes, so that a stream can be cut inside a character.
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_DELTA_OF_BLOCK = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
    "server_tool_use": (b"input_json_delta", b"partial_json"),
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
    if block.whole is not None:
        return
    if block.kind == "compaction":
        delta: dict[str, Any] = {"type": "compaction_delta", **_compaction(block)}
        yield event({"type": "content_block_delta", "index": index, "delta": delta})
        return
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
    for citation in block.citations if block.complete else ():
        delta = {"type": "citations_delta", "citation": citation}
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
    if answer.container:
        delta["container"] = server_tools.container(answer.container)
    counted = {k: v for k, v in usage(answer).items() if k in _DELTA_USAGE}
    last: dict[str, Any] = {"type": "message_delta", "delta": delta, "usage": counted}
    if answer.manages_context:
        last["context_management"] = _CONTEXT_MANAGEMENT
    return event(last)


def error_event(envelope: dict[str, Any]) -> bytes:
    """An error in the middle of a stream."""
    return event(envelope)


def message(answer: Answer, message_id: str, *, tier: str = "") -> dict[str, Any]:
    """The whole message; ``tier`` replaces the answer's service tier."""
    whole = _message(answer, message_id)
    if answer.stop_reason == "refusal":
        whole["stop_details"] = _REFUSAL
    whole["content"] = [
        _content(block, _text(block), _arguments(block), signature=block.signature, whole=True)
        for block in answer.blocks
    ]
    if answer.container:
        whole["container"] = server_tools.container(answer.container)
    if answer.manages_context:
        whole["context_management"] = _CONTEXT_MANAGEMENT
    whole["usage"] = usage(answer, tier=tier)
    return whole


def usage(answer: Answer, *, tier: str = "") -> dict[str, Any]:
    """The usage of a whole answer."""
    counted: dict[str, Any] = {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": answer.output_tokens,
        "service_tier": tier or answer.tier,
        "inference_geo": "not_available",
    }
    if answer.thinking_tokens:
        counted["output_tokens_details"] = {"thinking_tokens": answer.thinking_tokens}
    if answer.server_tool:
        counted["server_tool_use"] = server_tools.usage(answer.server_tool)
    if answer.speed:
        counted["speed"] = answer.speed
    if answer.compacted:
        counted["iterations"] = [_iteration(kind, answer) for kind in ("compaction", "message")]
    return counted


_DELTA_USAGE = frozenset(
    {
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
        "output_tokens_details",
        "server_tool_use",
        "iterations",
    }
)
_CONTEXT_MANAGEMENT: dict[str, Any] = {"applied_edits": []}
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


def _content(
    block: Block, text: str, arguments: Any, *, signature: str = "", whole: bool = False
) -> dict[str, Any]:
    if block.whole is not None:
        return block.whole
    if block.kind in ("tool_use", "server_tool_use"):
        return {"type": block.kind, "id": block.id, "name": block.name, "input": arguments}
    if block.kind == "thinking":
        return {"type": "thinking", "thinking": text, "signature": signature}
    if block.kind == "compaction":
        nothing = {"content": None, "encrypted_content": None}
        return {"type": "compaction", **(_compaction(block) if whole else nothing)}
    if block.citations:
        cited = list(block.citations) if whole and block.complete else []
        return {"type": "text", "text": text, "citations": cited}
    return {"type": "text", "text": text}


def _compaction(block: Block) -> dict[str, str]:
    return {"content": block.text, "encrypted_content": block.signature}


def _iteration(kind: str, answer: Answer) -> dict[str, Any]:
    """The usage of one sampling iteration: that of the answer, or an estimate of its compaction."""
    compaction = sum(len(b.text) for b in answer.blocks if b.kind == "compaction") // 4
    output = compaction if kind == "compaction" else answer.output_tokens
    return {
        "type": kind,
        "input_tokens": answer.input_tokens,
        "output_tokens": output,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": None,
    }


def _text(block: Block) -> str:
    if block.stamped:
        return "".join(f"{time.monotonic_ns()} " for _ in block.pieces)
    return block.text


def _arguments(block: Block) -> Any:
    # Cut by max_tokens, the text is not JSON any more; then the input is empty.
    takes_input = block.kind in ("tool_use", "server_tool_use") and block.complete
    return orjson.loads(block.text) if takes_input else {}
