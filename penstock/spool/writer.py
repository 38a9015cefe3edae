"""Compresses and stores chunks in a thread, while the caller prepares the next ones.

Zstandard and sockets release the interpreter's lock while they work, so with two cores storing
costs the caller almost no time. Producers and collect steps both write this way.
"""

import threading
import time
from collections import Counter, deque
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import redis

from penstock.spool.chunks import ChunkStore, compressor

#: Maximum bytes that wait for the thread; a single larger block may wait as well.
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024

#: How often chunks are refreshed within one lifetime.
_REFRESHES_PER_TTL: Final = 6


class BackgroundWriter:
    """Stores blocks of lines as chunks, in the order in which they are put. A context manager.

    Leaving the context waits until everything is stored and raises what storing it raised. If the
    context is left by an exception, blocks that still wait are dropped. Chunks that are stored by
    then remain: removing them is up to the caller.

    ``refresh_ttl_s``: lifetime of the chunks in seconds. The thread renews it several times within
    that lifetime, so that a caller may take any time between two blocks and only one that has died
    loses its chunks. None: a chunk's lifetime begins when its name is last written to.
    """

    def __init__(self, store: ChunkStore, *, refresh_ttl_s: int | None = None) -> None:
        self.chunks = Counter[str]()  #: name → chunks put so far
        self._store = store
        self._ttl_s = refresh_ttl_s
        self._compressor = compressor()
        self._blocks: deque[tuple[str, int, bytes | bytearray]] = deque()
        self._waiting_bytes = 0
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._refresh_at = self._next_refresh()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            if error is not None:
                self._blocks.clear()
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if error is None:
            self._raise_error()

    def put(self, name: str, block: bytes | bytearray) -> None:
        """Store a block of whole lines as the next chunk of ``name``; an empty one is ignored.

        The caller must not change the block afterwards. Waits while too much is waiting. Raises
        what storing an earlier block raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._fits(len(block)))
            self._raise_error()
            if not block:
                return
            self._blocks.append((name, self.chunks[name], block))
            self._waiting_bytes += len(block)
            self.chunks[name] += 1
            self._changed.notify_all()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _fits(self, size: int) -> bool:
        return not self._waiting_bytes or self._waiting_bytes + size <= MAX_WAITING_BYTES

    def _run(self) -> None:
        try:
            while (found := self._next()) is not None:
                name, index, block = found
                self._store.add(name, index, self._compressor.compress(block))
                with self._changed:
                    self._waiting_bytes -= len(block)
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> tuple[str, int, bytes | bytearray] | None:
        """The next block; None if there will be no more."""
        while True:
            left_s = None if self._refresh_at is None else self._refresh_at - time.monotonic()
            if left_s is not None and left_s <= 0:
                self._refresh()
                continue
            with self._changed:
                if self._changed.wait_for(lambda: self._blocks or self._closed, left_s):
                    return self._blocks.popleft() if self._blocks else None

    def _next_refresh(self) -> float | None:
        return None if self._ttl_s is None else time.monotonic() + self._ttl_s / _REFRESHES_PER_TTL

    def _refresh(self) -> None:
        assert self._ttl_s is not None
        self._refresh_at = self._next_refresh()
        with self._changed:
            names = list(self.chunks)
        with suppress(redis.RedisError):  # there are more refreshes before anything expires
            self._store.refresh_ttl(names, self._ttl_s)
