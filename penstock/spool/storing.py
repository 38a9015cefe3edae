"""Stores results while the next are still being downloaded.

Compression and Redis's socket leave the interpreter to others while they work, so a thread for
them costs little and halves the time that collecting takes.
"""

import queue
import threading
from typing import Final

import zstandard

from penstock.spool.chunks import ChunkStore

#: Blocks that wait to be stored: more would only fill memory when Redis is the slower one.
_WAITING: Final = 4


class StoringThread:
    """Compresses blocks of lines and stores them as the chunks of one name. A context manager."""

    def __init__(self, store: ChunkStore, name: str) -> None:
        self.chunks = 0  #: stored so far
        self._store = store
        self._name = name
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"store-{name}", daemon=True)

    def __enter__(self) -> "StoringThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until the thread is over, whether or not all went well."""
        self._blocks.put(None)
        self._thread.join()

    def put(self, block: bytes) -> None:
        """Hand over whole lines, or none. Raises what the store raised at an earlier block."""
        if self._error is not None:
            raise self._error
        if block:
            self._blocks.put(block)

    def finish(self) -> int:
        """Wait until all is stored; returns the number of chunks. Raises what the store raised."""
        self._blocks.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.chunks

    def _run(self) -> None:
        compressor = zstandard.ZstdCompressor(level=1)
        while (block := self._blocks.get()) is not None:
            if self._error is not None:
                continue  # nobody waits in vain: what comes after an error is thrown away
            try:
                self._store.add(self._name, self.chunks, compressor.compress(block))
                self.chunks += 1
            except BaseException as error:
                self._error = error
