"""Decodes the body of a response that should be the API's event stream. Pure.

Gateways answer status 200 with other bodies, too. A complete message is turned into its events, an
error object is passed on like an error event, and gzip that was not asked for is decoded. For any
other body the error quotes its beginning.

All streams of a process share one event loop, so no call decodes more than one piece, however much
a chunk holds once it is decompressed.
"""

import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Final

from penstock import json_text
from tasks.api.excerpt import excerpt
from tasks.api.gzip_body import GZIP, Gunzip
from tasks.api.sse import MAX_EVENT_BYTES, InvalidResponse, SSEDecoder
from tasks.api.whole_message import events_of

#: Maximum bytes that one call decodes: some milliseconds of work, whatever they are.
PIECE_BYTES: Final = 64 * 1024
#: Maximum bytes of one body after decompression. An answer of 128,000 tokens in deltas of one token
#: each has about 25 MB; a response without an end must not fill Redis.
MAX_BODY_BYTES: Final = 128 * 1024 * 1024

_MAX_LAYERS: Final = 2  # a gateway compresses what another one has compressed
_BOM: Final = b"\xef\xbb\xbf"
_HEAD_BYTES: Final = 1024  # of the body, kept for error messages


class ResponseTooLarge(InvalidResponse):
    """The body has more than `MAX_BODY_BYTES`."""


class ResponseBody:
    """Decodes one body, chunk by chunk, into the data of its events.

    A chunk that holds more than one piece is decoded by further calls::

        found = body.feed(chunk)
        while body.has_more:
            found = body.more()
    """

    def __init__(self, content_type: str = "", encoding: str = "") -> None:
        self._content_type = content_type
        self._encoding = encoding
        self._head = b""
        self._size = 0  # bytes, decompressed
        self._layers: list[Gunzip] = []
        self.has_more = False  #: whether `more` has to be called before the next chunk
        self._pieces: Iterator[bytes] = iter(())  # what is left of the last chunk
        self._whole: bytearray | None = None  # a JSON body, which is decoded at its end
        self._decoder: SSEDecoder | None = None  # None: not enough has arrived to know what it is
        self._stream: SSEDecoder | None = None  # the decoder once nothing else has to be done
        self._any = False  # an event has arrived

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add a chunk; returns the data of the events that its first piece completes.

        Raises `InvalidResponse`.
        """
        if self._stream is not None and len(chunk) <= PIECE_BYTES:
            self._size += len(chunk)
            if self._size <= MAX_BODY_BYTES:
                return self._stream.feed(chunk)
        if self._layers:
            self._pieces = iter((chunk,))
            for layer in self._layers:
                self._pieces = layer.pieces(self._pieces)
            self.has_more = True
            return self.more()
        if len(chunk) > PIECE_BYTES:
            self._pieces, self.has_more = _split(chunk), True
            return self.more()
        return self._feed(chunk)

    def more(self) -> list[bytes]:
        """Decode the next piece of the last chunk. Raises `InvalidResponse`."""
        try:
            piece = next(self._pieces, None)
        except zlib.error:
            raise InvalidResponse(f"the response is damaged gzip{self._described(b'')}") from None
        if piece is None:
            self.has_more = False
            return []
        return self._feed(piece)

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

    def _feed(self, piece: bytes) -> list[bytes]:
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            what = f"the response has more than {MAX_BODY_BYTES // 2**20} MB"
            raise ResponseTooLarge(what + self._described(b""))
        if self._decoder is None:
            return self._feed_undecided(piece)
        found = self._decoder.feed(piece)
        if found:
            self._any = True
            if not self._layers:
                self._stream = self._decoder
        elif not self._any and len(self._head) < _HEAD_BYTES:
            self._head += piece
        return found

    def _feed_undecided(self, piece: bytes) -> list[bytes]:
        """Add a piece while it is not known, or not at its end, that the body is a stream."""
        if self._whole is not None:
            self._add_to_whole(piece)
            return []
        self._head += piece
        if len(self._head) < len(_BOM):
            return []
        begin = self._beginning()
        if not begin:
            self._head = self._head[:_HEAD_BYTES]  # white space without an end costs nothing
            return []
        if begin.startswith(GZIP) and len(self._layers) < _MAX_LAYERS:
            layer, self._head = Gunzip(PIECE_BYTES), b""
            self._layers.append(layer)
            self._pieces = layer.pieces(chain((begin,), self._pieces))
            self.has_more = True
            return []
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


def _split(chunk: bytes) -> Iterator[bytes]:
    return (chunk[at : at + PIECE_BYTES] for at in range(0, len(chunk), PIECE_BYTES))


def _is_json(data: bytes) -> bool:
    try:
        json_text.loads(data)
    except ValueError:
        return False
    return True
