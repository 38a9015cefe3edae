"""Decodes the body of a response that should be the API's event stream. Pure.

Gateways answer status 200 with other bodies, too. A complete message is turned into its events, an
error object is passed on like an error event, and gzip that was not asked for is decoded. For any
other body the error quotes its beginning.
"""

import zlib
from typing import Any, Final

from penstock import json_text
from tasks.api.excerpt import excerpt
from tasks.api.sse import MAX_EVENT_BYTES, InvalidResponse, SSEDecoder
from tasks.api.whole_message import events_of

_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_HEAD_BYTES: Final = 1024  # of the body, kept for error messages


class ResponseBody:
    """Decodes one body, chunk by chunk, into the data of its events."""

    def __init__(self, content_type: str = "", encoding: str = "") -> None:
        self._content_type = content_type
        self._encoding = encoding
        self._head = b""
        self._gunzip: Any = None
        self._whole: bytearray | None = None  # a JSON body, which is decoded at its end
        self._decoder: SSEDecoder | None = None  # None: not enough has arrived to know what it is
        self._any = False  # an event has arrived

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add a chunk; returns the data of the events that it completes.

        Raises `InvalidResponse`.
        """
        if self._gunzip is None and self._decoder is not None:
            found = self._decoder.feed(chunk)
            if found:
                self._any = True
            elif not self._any and len(self._head) < _HEAD_BYTES:
                self._head += chunk
            return found
        return self._feed_other(chunk)

    def unfinished(self) -> list[bytes]:
        """Return the last event if it is whole, although the body ended without a blank line."""
        data = self._decoder.unfinished() if self._decoder is not None else None
        if data is None or not _is_json(data):
            return []
        self._any = True
        return [data]

    def finish(self) -> list[bytes]:
        """End the body; returns its last events. Raises `InvalidResponse` if it had none."""
        if self._whole is not None:
            return self._events_of_json(bytes(self._whole))
        last = self.unfinished()
        if not self._any:
            what = "is empty" if not self._head else "is not an event stream"
            raise InvalidResponse(f"the response {what}{self._described(self._head)}")
        return last

    def _feed_other(self, chunk: bytes) -> list[bytes]:
        if self._gunzip is not None:
            chunk = self._plain(chunk)
        if self._whole is not None:
            self._add_to_whole(chunk)
            return []
        if self._decoder is not None:
            found = self._decoder.feed(chunk)
            self._any = self._any or bool(found)
            return found
        self._head += chunk
        if len(self._head) < len(_BOM) or not (begin := self._beginning()):
            return []
        if begin.startswith(_GZIP) and self._gunzip is None:
            self._gunzip, self._head = zlib.decompressobj(wbits=31), b""
            return self._feed_other(begin)
        return self._begin(begin)

    def _begin(self, begin: bytes) -> list[bytes]:
        """Decide by its beginning what the body is."""
        if begin.startswith(b"<"):
            raise InvalidResponse(f"the response is a page{self._described(begin)}")
        if begin.startswith((b"{", b"[")):
            self._whole = bytearray(begin)
            return []
        self._decoder = SSEDecoder()
        found = self._decoder.feed(begin)
        self._any = bool(found)
        return found

    def _beginning(self) -> bytes:
        return self._head.removeprefix(_BOM).lstrip(b" \t\r\n")

    def _add_to_whole(self, chunk: bytes) -> None:
        assert self._whole is not None
        self._whole += chunk
        if len(self._whole) > MAX_EVENT_BYTES:
            what = f"the response is JSON of more than {MAX_EVENT_BYTES // 2**20} MB"
            raise InvalidResponse(what + self._described(self._whole))

    def _plain(self, chunk: bytes) -> bytes:
        try:
            plain: bytes = self._gunzip.decompress(chunk, MAX_EVENT_BYTES)
        except zlib.error:
            raise InvalidResponse(f"the response is damaged gzip{self._described(b'')}") from None
        if self._gunzip.unconsumed_tail:
            raise InvalidResponse(f"the response is too large gzip{self._described(b'')}")
        return plain

    def _events_of_json(self, body: bytes) -> list[bytes]:
        """Return the events of a body that is one JSON value, or a line of JSON for each event."""
        try:
            value = json_text.loads(body)
        except ValueError:
            lines = [line for line in body.splitlines() if line.strip()]
            if len(lines) > 1 and all(map(_is_json, lines[:-1])):
                return lines if _is_json(lines[-1]) else lines[:-1]
            what = f"the response is not an event stream{self._described(body)}"
            raise InvalidResponse(what) from None
        if isinstance(value, dict) and value.get("type") == "message":
            return events_of(value)
        if isinstance(value, dict) and value.get("error"):
            return [body]
        raise InvalidResponse(f"the response is not an event stream{self._described(body)}")

    def _described(self, body: bytes | bytearray) -> str:
        """The rest of an error message: what the headers say, and how the body begins."""
        facts = [f"content type {self._content_type}" if self._content_type else "no content type"]
        if self._encoding:
            facts.append(f"content encoding {self._encoding}, which it should not have")
        shown = excerpt(bytes(body[:_HEAD_BYTES]))
        return f" ({excerpt('; '.join(facts))})" + (f": {shown}" if shown else "")


def _is_json(data: bytes) -> bool:
    try:
        json_text.loads(data)
    except ValueError:
        return False
    return True
