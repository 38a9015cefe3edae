"""Decodes server-sent events by the WHATWG rules. Pure.

Only ``data`` is kept: the API repeats the event's name as ``type`` inside it.
"""

from typing import Final

_BLANK: Final = b"\n\n"


class SSEDecoder:
    """Decodes a byte stream that may be cut anywhere into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add a chunk; returns the data of every event that it completes."""
        if b"\r" in chunk or self._after_cr:
            chunk = self._unix(chunk)
        buffer = self._rest + chunk if self._rest else chunk
        if _BLANK not in buffer:
            self._rest = buffer
            return []
        *complete, self._rest = buffer.split(_BLANK)
        return [data for block in complete if (data := _data(block)) is not None]

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
        return data  # the API's own form: one event line, one data line
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in block.split(b"\n")
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None
