"""The body of a create call, straight from the spool: constant memory, no JSON parsed.

A batch exists for the API once the body is complete, so the last bytes are held back until the
record says that they go out, and until the body is known to be what was promised.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from penstock.batches.shard import Shard
from penstock.batches.wire import CLOSE, HEAD, MIDDLE, OPEN, TAIL
from penstock.errors import PenstockError
from penstock.spool.chunks import ChunkStore, lines_of

#: Seconds after its guard was asked in which the last bytes must go out: beyond, the record's time
#: of sending would be too early, and what is concluded from it wrong.
_MAX_BEFORE_END_S: Final = 30.0


class BodyMismatch(PenstockError):
    """The stored requests are not those that the shard's record promises."""


class Upload:
    """One create call's body; iterated once."""

    def __init__(self, shard: Shard, store: ChunkStore, before_end: Callable[[], None]) -> None:
        """``guard`` is called before the last bytes go out; what it raises keeps them back."""
        self._shard = shard
        self._store = store
        self._before_end = before_end
        self.complete = False  #: whether the last bytes were let go
        self.error: Exception | None = None  #: what kept them back

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._begin()
            self._call_before_end()
        except Exception as error:
            self.error = error
            raise
        self.complete = True
        yield CLOSE + TAIL

    def _call_before_end(self) -> None:
        started = time.monotonic()
        self._before_end()
        if time.monotonic() - started > _MAX_BEFORE_END_S:
            raise TimeoutError("the record was written too slowly")

    def _begin(self) -> Iterator[bytes]:
        """All but the end, in pieces of about a chunk."""
        shard, sent, count = self._shard, 0, 0
        start = OPEN + shard.nonce.encode() + b"-%06d" + MIDDLE
        between = CLOSE + b","
        name = f"requests-{shard.spool}"
        for chunk in self._store.read(name, shard.request_chunks):
            lines = lines_of(chunk)
            parts = [b""] * (2 * len(lines))
            parts[0::2] = [
                (between + start) % number for number in range(count, count + len(lines))
            ]
            parts[1::2] = lines
            if not count:
                parts[0] = HEAD + start % 0
            piece = b"".join(parts)
            count += len(lines)
            sent += len(piece)
            yield piece
        if (count, sent + len(CLOSE + TAIL)) != (shard.requests, shard.size):
            raise BodyMismatch(
                f"{name} has {count} requests, a body of {sent + len(CLOSE + TAIL)} bytes; "
                f"expected: {shard.requests} and {shard.size}"
            )
