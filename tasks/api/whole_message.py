"""The events of a message that arrived whole, as the API would have streamed them. Pure.

Some gateways ignore ``stream`` and answer with the complete message. It was paid for.
"""

from collections.abc import Iterator
from typing import Any, Final

from penstock import json_text

#: Block type → the field that is streamed, and the type of its deltas.
_STREAMED: Final = {"text": ("text", "text_delta"), "thinking": ("thinking", "thinking_delta")}
#: Fields of a message that the API sends at its end.
_AT_THE_END: Final = ("stop_reason", "stop_sequence", "stop_details", "container")


def events_of(message: dict[str, Any]) -> list[bytes]:
    """Return the events (JSON) that make up a complete message of the API."""
    return [json_text.dumps(event) for event in _events(message)]


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    started = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": started}
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else []):
        yield from _block_events(index, block)
        yield {"type": "content_block_stop", "index": index}
    delta = {name: message[name] for name in _AT_THE_END if name in message}
    yield {"type": "message_delta", "delta": delta, "usage": message.get("usage")}
    yield {"type": "message_stop"}


def _block_events(index: int, block: Any) -> Iterator[dict[str, Any]]:
    kind = block.get("type") if isinstance(block, dict) else None
    field, delta = _STREAMED.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
    if not field or not isinstance(block.get(field), str):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        return
    empty = {**block, field: ""}
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    piece = {"type": delta, field: block[field]}
    yield {"type": "content_block_delta", "index": index, "delta": piece}
