"""Responses that are not the API's, as data: those of gateways, and bodies in another form."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass

_HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
_STREAM = "text/event-stream; charset=utf-8"
_JSON = "application/json"

#: Name: content type and body, whatever was asked for.
FIXED_RESPONSES: dict[str, tuple[str, bytes]] = {
    "html": ("text/html", _HTML),
    "html_as_stream": (_STREAM, _HTML),
    "text": ("text/plain", b"upstream connect error or disconnect/reset before headers"),
    "empty": (_STREAM, b""),
    "json_error": (
        _JSON,
        b'{"type":"error","error":{"type":"api_error","message":"Internal server error"}}',
    ),
    "json_text": (_JSON, b'"ok"'),
    "json_null": (_JSON, b"null"),
    "json_list": (_JSON, b"[]"),
    "openai_error": (
        _JSON,
        (
            b'{"error":{"message":"The server had an error","type":"server_error","param":null,'
            b'"code":null}}'
        ),
    ),
    "openai_completion": (
        _JSON,
        b'{"object":"chat.completion","choices":[{"message":{"role":"assistant","content":"Hi"}}]}',
    ),
    "openai_stream": (
        _STREAM,
        (
            b'data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"Hi"}}]}\n\n'
            b"data: [DONE]\n\n"
        ),
    ),
}

#: The complete message as JSON, although a stream was asked for; ``…_as_stream``: labelled as one.
MESSAGE_RESPONSES = {"message": _JSON, "message_as_stream": _STREAM}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the bytes of a stream are sent in another form."""

    headers: dict[str, str]
    encode: Callable[[bytes], bytes]


def brotli(data: bytes) -> bytes:
    """``data`` in brotli's format, not compressed: a decoder is what a client may lack."""
    encoded = bytearray()
    for start in range(0, len(data), 65536):
        part = data[start : start + 65536]
        # From the lowest bit: window size (1 bit, once), not the last block (1), length in four
        # half bytes (2), length - 1 (16), uncompressed (1).
        bits = 1 << 19 | (len(part) - 1) << 3
        encoded += (bits << 1 if start == 0 else bits).to_bytes(3, "little") + part
    return bytes(encoded) + (b"\x03" if data else b"\x06")


ENCODED_RESPONSES = {
    "stream_as_json": Encoding({"content-type": _JSON}, bytes),
    "gzip": Encoding({"content-type": _STREAM, "content-encoding": "gzip"}, gzip.compress),
    "gzip_unlabelled": Encoding({"content-type": _STREAM}, gzip.compress),
    "br": Encoding({"content-type": _STREAM, "content-encoding": "br"}, brotli),
    "br_unlabelled": Encoding({"content-type": _STREAM}, brotli),
}

MALFORMED_RESPONSES = frozenset({*FIXED_RESPONSES, *MESSAGE_RESPONSES, *ENCODED_RESPONSES})


class FixedResponse(Exception):
    """One of `FIXED_RESPONSES`, with the status that a fault asks for."""

    def __init__(self, name: str, status: int) -> None:
        self.status = status
        kind, self.body = FIXED_RESPONSES[name]
        self.headers = {"content-type": kind, "content-length": str(len(self.body))}
        super().__init__(name)
