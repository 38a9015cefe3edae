"""Malformed result lines of a batch as data."""

import orjson

from penstock.simulator.faults.raw_json import nested, with_field

#: Larger than any message: 300,000 tokens are about 1 MB.
_OVERSIZED = 32 * 1024 * 1024

#: Name: the field, and its raw JSON; empty: without the field.
_FIELDS: dict[str, tuple[str, bytes]] = {
    "message_null": ("result.message", b"null"),
    "message_list": ("result.message", b"[]"),
    "message_missing": ("result.message", b""),
    "content_null": ("result.message.content", b"null"),
    "content_text": ("result.message.content", b'"text"'),
    "block_null": ("result.message.content", b"[null]"),
    "text_null": ("result.message.content", b'[{"type":"text","text":null}]'),
    "stop_reason_object": ("result.message.stop_reason", b'{"type":"end_turn"}'),
    "usage_strings": ("result.message.usage", b'{"input_tokens":"7","output_tokens":"12"}'),
    "usage_null": ("result.message.usage", b"null"),
    "usage_nan": ("result.message.usage", b'{"input_tokens":7,"output_tokens":NaN}'),
    "result_null": ("result", b"null"),
    "result_list": ("result", b"[]"),
    "result_missing": ("result", b""),
    "type_list": ("result.type", b'["succeeded"]'),
    "type_null": ("result.type", b"null"),
    "type_unknown": ("result.type", b'"postponed"'),
    "error_null": ("result", b'{"type":"errored","error":null}'),
    "error_text": ("result", b'{"type":"errored","error":"no"}'),
    "error_type_list": (
        "result",
        b'{"type":"errored","error":{"type":"error","error":{"type":["api_error"],"message":1}}}',
    ),
    "id_missing": ("custom_id", b""),
    "id_null": ("custom_id", b"null"),
    "id_number": ("custom_id", b"7"),
    "half_surrogate": (
        "result.message.content",
        rb'[{"type":"text","text":"half \ud83d"}]',
    ),
    "half_surrogate_key": (
        "result.message.content",
        rb'[{"type":"tool_use","id":"toolu_1","name":"t","input":{"\ud83d":"\ude00"}}]',
    ),
    "nan": (
        "result.message.content",
        b'[{"type":"tool_use","id":"toolu_1","name":"t","input":{"a":[NaN,-Infinity]}}]',
    ),
    "long_integer": (
        "result.message.content",
        b'[{"type":"tool_use","id":"toolu_1","name":"t","input":{"a":18446744073709551616}}]',
    ),
    "nested": ("result.message.content", nested()),
    "nested_field": ("result.extra", nested()),
    "oversized": (
        "result.message.content",
        b'[{"type":"text","text":"' + b"a" * _OVERSIZED + b'"}]',
    ),
}
#: Name: bytes instead of the line.
_LINES: dict[str, bytes] = {
    "json_list": b"[]",
    "json_number": b"7",
    "json_null": b"null",
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "nested_line": nested(),
}
_CUT, _INVALID_UTF8, _BOM = "not_json", "invalid_utf8", "bom"

MALFORMED_LINES = frozenset({*_FIELDS, *_LINES, _CUT, _INVALID_UTF8, _BOM})


def malformed(line: bytes, name: str) -> bytes:
    """A result line, malformed as one of `MALFORMED_LINES`; it still ends in a line feed."""
    raw = line.rstrip(b"\n")
    if name in _FIELDS:
        raw = with_field(orjson.loads(raw), *_FIELDS[name])
    elif name in _LINES:
        raw = _LINES[name]
    elif name == _CUT:
        raw = raw[: len(raw) // 2]
    elif name == _INVALID_UTF8:
        raw = with_field(orjson.loads(raw), "result.extra", b'"caf\xe9"')
    else:
        raw = b"\xef\xbb\xbf" + raw
    return raw + b"\n"
