"""Streams the body of a create call from the spool, without parsing its JSON.

Memory use is constant.

The API can create a batch as soon as it has the whole body. So the last bytes are held back until
the body is known to have the requests and the size of the shard's record, and until the record says
that the last bytes are sent.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from penstock.batches.shard import Shard
from penstock.batches.wire import BODY_HEAD, BODY_TAIL, LINE_TAIL, request_head
from penstock.errors import PenstockError
from penstock.spool.chunks import ChunkStore, lines_of

#: Maximum seconds that ``before_end`` may take. After more, the time of sending in the record would
#: be too early, and a lost call could be abandoned before its time.
_MAX_BEFORE_END_S: Final = 30.0


class BodyMismatch(PenstockError):
    """The number or the size of the stored requests is not that of the shard's record."""


class Upload:
    """The body of one create call. It can be iterated once."""

    def __init__(self, shard: Shard, store: ChunkStore, before_end: Callable[[], None]) -> None:
        """``before_end`` is called before the last bytes, which are not sent if it raises."""
        self._shard = shard
        self._store = store
        self._before_end = before_end
        self.complete = False  #: whether the last bytes were given to the connection
        self.error: Exception | None = None  #: why the last bytes were held back

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._begin()
            self._call_before_end()
        except Exception as error:
            self.error = error
            raise
        self.complete = True
        yield LINE_TAIL + BODY_TAIL

    def _call_before_end(self) -> None:
        started = time.monotonic()
        self._before_end()
        if time.monotonic() - started > _MAX_BEFORE_END_S:
            raise TimeoutError("the record was written too slowly")

    def _begin(self) -> Iterator[bytes]:
        """Yield all but the last bytes, in pieces of about a chunk."""
        shard, sent, count = self._shard, 0, 0
        start = request_head(shard.nonce)
        between = LINE_TAIL + b","
        name = shard.request_chunk_name
        for chunk in self._store.read(name, shard.request_chunks):
            lines = lines_of(chunk)
            parts = [b""] * (2 * len(lines))
            parts[0::2] = [
                (between + start) % number for number in range(count, count + len(lines))
            ]
            parts[1::2] = lines
            if not count:
                parts[0] = BODY_HEAD + start % 0
            piece = b"".join(parts)
            count += len(lines)
            sent += len(piece)
            yield piece
        size = sent + len(LINE_TAIL + BODY_TAIL)
        if (count, size) != (shard.requests, shard.size):
            raise BodyMismatch(
                f"{name} has {count} requests, a body of {size} bytes; "
                f"expected: {shard.requests} requests, {shard.size} bytes"
            )
