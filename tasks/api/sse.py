"""Decodes server-sent events by the WHATWG rules. Pure.

Only ``data`` is kept: the API repeats the event's name as ``type`` inside it.
"""

from typing import Final

#: Maximum bytes of one event, as of a request to the API: a larger block could not be sent back. A
#: body without any blank line must neither fill the memory of the worker nor hold up its streams.
MAX_EVENT_BYTES: Final = 32 * 1024 * 1024

_BLANK: Final = b"\n\n"
_PING: Final = b"event: ping"  # the SDK skips it whatever its data is


class InvalidResponse(Exception):
    """The body is not an event stream of the API; the exception's text describes it."""


class SSEDecoder:
    """Decodes a byte stream that may be cut anywhere into the data of its events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add a chunk; returns the data of every event that it completes.

        Raises `InvalidResponse` for an event of more than `MAX_EVENT_BYTES`.
        """
        if b"\r" in chunk or self._after_cr:
            chunk = self._unix(chunk)
        rest = self._rest
        if rest:
            searched = len(rest) - 1
            rest += chunk
            if rest.find(_BLANK, searched) < 0:
                if len(rest) > MAX_EVENT_BYTES:
                    size = MAX_EVENT_BYTES // 2**20
                    raise InvalidResponse(f"an event has more than {size} MB")
                return []
            chunk = bytes(rest)
        else:
            chunk = chunk.lstrip(b"\n")  # blank lines before an event: a body may be full of them
            if _BLANK not in chunk:
                rest += chunk
                return []
        *complete, last = chunk.split(_BLANK)
        self._rest = bytearray(last.lstrip(b"\n"))
        return [
            data for block in complete if b"data" in block and (data := _data(block)) is not None
        ]

    def unfinished(self) -> bytes | None:
        """Return the data of the last event if no blank line has ended it, and forget it."""
        block, self._rest = bytes(self._rest).removesuffix(b"\n"), bytearray()
        return _data(block)

    def _unix(self, chunk: bytes) -> bytes:
        """Replace CRLF and CR by LF.

        A CR at the end of the chunk ends its line at once; an LF at the start of the next chunk
        belongs to it. This is safe because JSON escapes both characters.
        """
        if chunk and self._after_cr:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(block: bytes) -> bytes | None:
    """Return the data of one event, or None if it has none."""
    name, found, data = block.partition(b"\ndata: ")
    if found and b"\n" not in data and b"\n" not in name and not name.startswith(b"data:"):
        return data if name != _PING else None  # the API's own form: one event line, one data line
    lines = block.split(b"\n")
    pieces = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in lines
        if line.startswith(b"data:")
    ]
    return b"\n".join(pieces) if pieces and _PING not in lines else None
