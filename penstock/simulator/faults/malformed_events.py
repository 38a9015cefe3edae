"""Malformed streams as data: which event of a stream is changed, and into what.

The changed event is the first of its type, or for a delta the one at the fault's position ``at``.
"""

from dataclasses import dataclass

import orjson

from penstock.simulator.faults.raw_json import nested, with_field

_DELTA = "content_block_delta"
_BLOCK = "content_block_start"
_START = "message_start"
_END = "message_delta"

#: Name: the event's type, the field, and its raw JSON; empty: without the field. Several values
#: make several events.
_FIELDS: dict[str, tuple[str, str, tuple[bytes, ...]]] = {
    # Deltas.
    "text_null": (_DELTA, "delta", (b'{"type":"text_delta","text":null}',)),
    "text_number": (_DELTA, "delta", (b'{"type":"text_delta","text":7}',)),
    "text_list": (_DELTA, "delta", (b'{"type":"text_delta","text":["a"]}',)),
    "text_missing": (_DELTA, "delta", (b'{"type":"text_delta"}',)),
    "partial_json_null": (_DELTA, "delta", (b'{"type":"input_json_delta","partial_json":null}',)),
    "partial_json_object": (_DELTA, "delta", (b'{"type":"input_json_delta","partial_json":{}}',)),
    "thinking_null": (_DELTA, "delta", (b'{"type":"thinking_delta","thinking":null}',)),
    "signature_number": (_DELTA, "delta", (b'{"type":"signature_delta","signature":7}',)),
    "citation_null": (_DELTA, "delta", (b'{"type":"citations_delta","citation":null}',)),
    "delta_null": (_DELTA, "delta", (b"null",)),
    "delta_text": (_DELTA, "delta", (b'"text"',)),
    "delta_missing": (_DELTA, "delta", (b"",)),
    "delta_type_list": (_DELTA, "delta", (b'{"type":["text_delta"],"text":"a"}',)),
    "delta_type_null": (_DELTA, "delta", (b'{"type":null,"text":"a"}',)),
    "index_missing": (_DELTA, "index", (b"",)),
    "index_null": (_DELTA, "index", (b"null",)),
    "index_text": (_DELTA, "index", (b'"0"',)),
    "index_negative": (_DELTA, "index", (b"-1",)),
    "index_large": (_DELTA, "index", (b"1000000",)),
    "type_list": (_DELTA, "type", (b'["content_block_delta"]',)),
    "type_null": (_DELTA, "type", (b"null",)),
    "type_missing": (_DELTA, "type", (b"",)),
    # Blocks.
    "block_null": (_BLOCK, "content_block", (b"null",)),
    "block_list": (_BLOCK, "content_block", (b"[]",)),
    "block_missing": (_BLOCK, "content_block", (b"",)),
    "block_type_list": (_BLOCK, "content_block.type", (b'["text"]',)),
    "block_text_null": (_BLOCK, "content_block.text", (b"null",)),
    "block_index_text": (_BLOCK, "index", (b'"0"',)),
    # The beginning and the end of a message.
    "start_null": (_START, "message", (b"null",)),
    "start_missing": (_START, "message", (b"",)),
    "start_content_object": (_START, "message.content", (b"{}",)),
    "start_id_list": (_START, "message.id", (b"[]",)),
    "start_model_number": (_START, "message.model", (b"5",)),
    "start_usage_strings": (_START, "message.usage", (b'{"input_tokens":"7"}',)),
    "start_usage_null": (_START, "message.usage", (b"null",)),
    "stop_reason_object": (_END, "delta.stop_reason", (b'{"type":"end_turn"}',)),
    "stop_reason_number": (_END, "delta.stop_reason", (b"1",)),
    "stop_reason_null": (_END, "delta.stop_reason", (b"null",)),
    "stop_details_text": (_END, "delta.stop_details", (b'"none"',)),
    "end_delta_null": (_END, "delta", (b"null",)),
    "usage_strings": (_END, "usage", (b'{"output_tokens":"12","input_tokens":"7"}',)),
    "usage_list": (_END, "usage", (b"[12]",)),
    "usage_null": (_END, "usage", (b"null",)),
    "usage_negative": (_END, "usage", (b'{"output_tokens":-12}',)),
    "usage_nan": (_END, "usage", (b'{"output_tokens":NaN}',)),
    "usage_infinity": (_END, "usage", (b'{"output_tokens":Infinity}',)),
    "usage_long": (_END, "usage", (b'{"output_tokens":18446744073709551616}',)),
    # What strict parsers of JSON reject.
    "half_surrogate": (_DELTA, "delta", (rb'{"type":"text_delta","text":"half \ud83d "}',)),
    "split_surrogate": (
        _DELTA,
        "delta",
        (
            rb'{"type":"text_delta","text":"split \ud83d"}',
            rb'{"type":"text_delta","text":"\ude00 "}',
        ),
    ),
    "half_surrogate_key": (_DELTA, "extra", (rb'{"\ud83d":1}',)),
    "half_surrogate_input": (
        _DELTA,
        "delta",
        (rb'{"type":"input_json_delta","partial_json":"{\"a\":\"\\ud83d\"}"}',),
    ),
    "nan": (_DELTA, "extra", (b"[NaN,Infinity,-Infinity]",)),
    "nan_input": (_DELTA, "delta", (rb'{"type":"input_json_delta","partial_json":"{\"a\":NaN}"}',)),
    "long_integer": (_DELTA, "extra", (b"18446744073709551616",)),
    "nested_text": (_DELTA, "delta.text", (nested(),)),
    "nested_field": (_DELTA, "extra", (nested(),)),
}

#: Name: bytes instead of a delta.
_DELTAS: dict[str, bytes] = {
    "not_json": b'event: content_block_delta\ndata: {"type":"content_block_del\n\n',
    "json_list": b"event: content_block_delta\ndata: []\n\n",
    "json_number": b"event: content_block_delta\ndata: 7\n\n",
    "json_null": b"event: content_block_delta\ndata: null\n\n",
    "no_data": b"event: content_block_delta\n\n",
    "nested_event": b"event: content_block_delta\ndata: " + nested() + b"\n\n",
    "invalid_utf8": (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"caf\xe9 "}}\n\n'
    ),
    "no_event_name": (
        b'data: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"unnamed "}}\n\n'
    ),
    "openai_chunk": b'data: {"object":"chat.completion.chunk","choices":[{"delta":{}}]}\n\n',
    "done_marker": b"data: [DONE]\n\n",
    "error_type_list": (
        b'event: error\ndata: {"type":"error","error":{"type":["api_error"],"message":"no"}}\n\n'
    ),
    "error_type_null": (
        b'event: error\ndata: {"type":"error","error":{"type":null,"message":"no"}}\n\n'
    ),
    "error_message_object": (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":{}}}\n\n'
    ),
    "error_half_surrogate": (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
        rb'"message":"half \ud83d"}}' + b"\n\n"
    ),
    "error_text": b'event: error\ndata: {"type":"error","error":"no"}\n\n',
    "error_null": b'event: error\ndata: {"type":"error","error":null}\n\n',
    "error_not_json": b"event: error\ndata: upstream connect error\n\n",
    "error_openai": b'data: {"error":{"message":"no","type":"server_error","code":null}}\n\n',
}

#: Name: an event that comes before a delta.
_BEFORE: dict[str, bytes] = {
    "stray_stop": b'event: content_block_stop\ndata: {"type":"content_block_stop","index":7}\n\n',
    "early_message_stop": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "second_block_start": (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":""}}\n\n'
    ),
    "second_message_start": (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_2","type":'
        b'"message","role":"assistant","model":"claude-2","content":[],"stop_reason":null,'
        b'"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    ),
    "unknown_event": b'event: hint\ndata: {"type":"hint","of":[1]}\n\n',
}

#: Name: the type of an event that is missing.
_MISSING = {
    "no_message_start": _START,
    "no_block_start": _BLOCK,
    "no_block_stop": "content_block_stop",
    "no_message_delta": _END,
}

#: Blocks are numbered 1, 3, 5 …
_GAP = "index_gap"

MALFORMED_EVENTS = frozenset({*_FIELDS, *_DELTAS, *_BEFORE, *_MISSING, _GAP})


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one event of a stream."""

    place: int
    events: tuple[bytes, ...]  #: instead of it


def changes(name: str, events: list[bytes], delta: int) -> list[Change]:
    """How a stream of ``events`` is malformed; ``delta``: the place of the delta that is changed.

    A stream without an event of the type that is changed stays as it is.
    """
    if name == _GAP:
        return [_renumbered(place, raw) for place, raw in enumerate(events) if b'"index":' in raw]
    if name in _DELTAS:
        return [Change(delta, (_DELTAS[name],))]
    if name in _BEFORE:
        return [Change(delta, (_BEFORE[name], events[delta]))]
    kind, path, values = _FIELDS.get(name, (_MISSING.get(name, ""), "", ()))
    begins = f"event: {kind}\n".encode()
    first = next((place for place, raw in enumerate(events) if raw.startswith(begins)), None)
    place = delta if kind == _DELTA else first
    if place is None or not events[place].startswith(begins):
        return []
    changed = (begins + b"data: " + with_field(_data(events[place]), path, v) for v in values)
    return [Change(place, tuple(each + b"\n\n" for each in changed))]


def _data(event: bytes) -> dict[str, object]:
    found: dict[str, object] = orjson.loads(event.partition(b"\ndata: ")[2])
    return found


def _renumbered(place: int, event: bytes) -> Change:
    data = _data(event)
    raw = with_field(data, "index", b"%d" % (int(str(data["index"])) * 2 + 1))
    return Change(place, (event.partition(b"data: ")[0] + b"data: " + raw + b"\n\n",))
