"""The body of a create call, straight from the spool: constant memory, no JSON parsed.

A batch exists for the API once the body is complete, so the last bytes are held back until the
record says that they go out, and until the body is known to be what was promised.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from penstock.batches.shard import Shard
from penstock.batches.wire import BODY_HEAD, BODY_TAIL, LINE_TAIL, request_head
from penstock.errors import PenstockError
from penstock.spool.chunks import ChunkStore, lines_of

#: Seconds after its guard was asked in which the last bytes must go out: beyond, the record's time
#: of sending would be too early, and what is concluded from it wrong.
_PROMPT_S: Final = 30.0


class BodyMismatch(PenstockError):
    """The stored requests are not those that the shard's record promises."""


class Upload:
    """One create call's body; iterated once."""

    def __init__(self, shard: Shard, store: ChunkStore, guard: Callable[[], None]) -> None:
        """``guard`` is called before the last bytes go out; what it raises keeps them back."""
        self._shard = shard
        self._store = store
        self._guard = guard
        self.complete = False  #: whether the last bytes were let go
        self.error: Exception | None = None  #: what kept them back

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._begin()
            self._ask()
        except Exception as error:
            self.error = error
            raise
        self.complete = True
        yield LINE_TAIL + BODY_TAIL

    def _ask(self) -> None:
        started = time.monotonic()
        self._guard()
        if time.monotonic() - started > _PROMPT_S:
            raise TimeoutError("the record was written too slowly")

    def _begin(self) -> Iterator[bytes]:
        """All but the end, in pieces of about a chunk."""
        shard, sent, count = self._shard, 0, 0
        start = request_head(shard.nonce)
        between = LINE_TAIL + b","
        name = f"requests-{shard.spool}"
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
                f"expected: {shard.requests} and {shard.size}"
            )
