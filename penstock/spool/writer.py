"""Compressing and storing chunks in a thread of its own, while the producer prepares the next ones.

Zstandard and sockets release the interpreter's lock, so on a machine with two cores the one half
costs no time. The thread also renews the lifetime of what is stored, so that a producer may take
its time: only one that is dead loses its chunks.
"""

import threading
import time
from collections import Counter, deque
from contextlib import suppress
from typing import Final

import redis

from penstock.errors import SpoolUnavailable
from penstock.spool.chunks import ChunkStore, compressor

#: Bytes that may wait for the thread; a single larger block may as well.
WAITING_BYTES: Final = 4 * 1024 * 1024

#: Lifetimes are renewed so often in their length.
_RENEWALS: Final = 6


class BackgroundWriter:
    """Stores blocks of lines as chunks, in order. To be closed or aborted."""

    def __init__(self, store: ChunkStore, ttl_s: int) -> None:
        self.chunks = Counter[str]()  #: name → chunks put so far
        self._store = store
        self._ttl_s = ttl_s
        self._compressor = compressor()
        self._blocks: deque[tuple[str, int, bytearray]] = deque()
        self._waiting = 0
        self._over = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._renew_at = time.monotonic() + ttl_s / _RENEWALS
        self._thread = threading.Thread(target=self._work, name="penstock-spool", daemon=True)
        self._thread.start()

    def put(self, name: str, block: bytearray) -> None:
        """Have a block stored as the next chunk of ``name``; it is the thread's from now on. Waits
        while too much is waiting. Raises what storing an earlier one raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._fits(len(block)))
            self._check()
            self._blocks.append((name, self.chunks[name], block))
            self._waiting += len(block)
            self.chunks[name] += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until everything is stored. Raises what storing it raised."""
        self._end()
        self._check()

    def abort(self) -> None:
        """Store no more of what is waiting, and remove what is stored."""
        with self._changed:
            self._blocks.clear()
        self._end()
        with suppress(redis.RedisError, SpoolUnavailable):  # the same happens by itself, later
            self._store.clear(self.chunks)

    def _end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _fits(self, size: int) -> bool:
        return not self._waiting or self._waiting + size <= WAITING_BYTES

    def _work(self) -> None:
        try:
            while (found := self._next()) is not None:
                name, index, block = found
                self._store.add(name, index, self._compressor.compress(block))
                with self._changed:
                    self._waiting -= len(block)
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> tuple[str, int, bytearray] | None:
        """The next block; none if there will be no more."""
        while True:
            left_s = self._renew_at - time.monotonic()
            if left_s <= 0:
                self._renew()
                continue
            with self._changed:
                if self._changed.wait_for(lambda: self._blocks or self._over, left_s):
                    return self._blocks.popleft() if self._blocks else None

    def _renew(self) -> None:
        self._renew_at = time.monotonic() + self._ttl_s / _RENEWALS
        with self._changed:
            names = list(self.chunks)
        with suppress(redis.RedisError):  # there are more renewals before anything expires
            self._store.keep(names, self._ttl_s)
