"""Server-sent events from bytes, by the WHATWG rules the API uses; pure.

Only ``data`` is kept: the API repeats the event's name as ``type`` inside it.
"""

from typing import Final

_BLANK: Final = b"\n\n"


class SSEDecoder:
    """Feed it bytes cut anywhere; it returns the complete events' data, in order."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that ``chunk`` completes."""
        if b"\r" in chunk or self._after_cr:
            chunk = self._unix(chunk)
        buffer = self._rest + chunk if self._rest else chunk
        if _BLANK not in buffer:
            self._rest = buffer
            return []
        *complete, self._rest = buffer.split(_BLANK)
        return [data for block in complete if (data := _data(block)) is not None]

    def _unix(self, chunk: bytes) -> bytes:
        """CRLF and CR as LF. A CR at the end ends its line at once; if an LF follows with the next
        chunk, it belongs to that CR.

        Safe, since JSON escapes both characters and so never contains them itself.
        """
        if chunk and self._after_cr:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(block: bytes) -> bytes | None:
    """The data of one event, or None where it has none."""
    name, found, data = block.partition(b"\ndata: ")
    if found and b"\n" not in data and b"\n" not in name and not name.startswith(b"data:"):
        return data  # as the API writes them: one line of event, one of data
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in block.split(b"\n")
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None
