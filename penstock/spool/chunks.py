"""Chunks: many lines as one compressed piece, and their store in Redis.

The request and result lines of a job are stored in chunks, so that neither a message nor a process
ever holds a whole job. A name (``requests-0``, ``results-0-3``) has chunks numbered from 0. The
shard's record says how many, so that a lost chunk is noticed.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

import zstandard

from penstock.errors import PenstockError, RecordUnreadable
from penstock.keys import JobKeys
from penstock.store.connection import Connection

#: Bytes of lines, before compression, at which a chunk is full.
CHUNK_BYTES: Final = 512 * 1024

#: Maximum bytes of a chunk's lines: the longest line that is stored has 64 MiB, and a chunk that
#: lacks a byte of being full may come before it.
MAX_UNPACKED_BYTES: Final = 72 * 1024 * 1024

#: Chunks fetched from Redis in one call.
_FETCHED_AT_ONCE: Final = 4


class ChunkMissing(PenstockError):
    """A stored chunk of the job is missing: it has expired or was removed."""


class Packer:
    """Packs lines into chunks, one line at a time."""

    def __init__(self, limit: int = CHUNK_BYTES) -> None:
        self._limit = limit
        self._compressor = compressor()
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, line: bytes) -> bytes | None:
        """Add a line (without its line end); returns a chunk when one is full."""
        self._lines.append(line)
        self._size += len(line) + 1
        return self.flush() if self._size >= self._limit else None

    def flush(self) -> bytes | None:
        """Return the remaining lines as a chunk; None if there are none."""
        if not self._lines:
            return None
        self._lines.append(b"")
        chunk = self._compressor.compress(b"\n".join(self._lines))
        self._lines, self._size = [], 0
        return chunk


def pack(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Pack lines (without line ends) into chunks."""
    packer = Packer()
    for line in lines:
        chunk = packer.add(line)
        if chunk is not None:
            yield chunk
    chunk = packer.flush()
    if chunk is not None:
        yield chunk


def compressor() -> zstandard.ZstdCompressor:
    """Return what compresses a block of lines into a chunk; for one thread at a time.

    Every line of the block ends in ``\\n``.
    """
    # Levels below 1 save almost no time and take up to twice the space.
    return zstandard.ZstdCompressor(level=1)


def unpack(chunk: bytes) -> bytes:
    """Return the lines of a chunk as one block; every line ends in ``\\n``.

    Raises `RecordUnreadable` for what is no chunk, or has more than `MAX_UNPACKED_BYTES`: a few kB
    can claim to be gigabytes.
    """
    try:
        size = zstandard.frame_content_size(chunk)
        if size > MAX_UNPACKED_BYTES:
            raise RecordUnreadable(f"a stored chunk claims to have {size} bytes")
        return zstandard.ZstdDecompressor().decompress(chunk, max_output_size=MAX_UNPACKED_BYTES)
    except zstandard.ZstdError as error:
        raise RecordUnreadable(f"a stored chunk cannot be decompressed: {error}") from error


def lines_of(chunk: bytes) -> list[bytes]:
    """Return the lines of a chunk, without their line ends."""
    # Not splitlines: it also splits at U+2028, U+0085 and others, which JSON may contain.
    return unpack(chunk)[:-1].split(b"\n")


def lines_in(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of all chunks, without their line ends."""
    for chunk in chunks:
        yield from lines_of(chunk)


class ChunkStore(Protocol):
    """Stores the chunks of one job."""

    def add(self, name: str, index: int, chunk: bytes) -> None:
        """Store chunk number ``index`` of ``name``; those of a name are added in order."""

    def read(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        """Yield the chunks of ``name`` from ``first`` up to ``count``. Raises `ChunkMissing`."""

    def refresh_ttl(self, names: Iterable[str], seconds: int) -> bool:
        """Let the chunks of these names expire in ``seconds`` from now.

        Returns False if a name is known to be missing; chunks are not checked one by one.
        """

    def remove(self, names: Iterable[str]) -> None:
        """Remove the chunks of these names; a name without chunks is ignored."""

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove the chunks of these names, and all others of the job that the store can find."""


class RedisChunkStore:
    """Chunks in Redis: a list for each name."""

    def __init__(self, connection: Connection, keys: JobKeys, ttl_s: int) -> None:
        self._redis = connection
        self._keys = keys
        self._ttl_s = ttl_s

    def add(self, name: str, index: int, chunk: bytes) -> None:
        """Append a chunk. Raises `ChunkMissing` if an earlier one of its name is missing."""
        key = self._keys.chunks(name)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(key, chunk)
            pipe.expire(key, self._ttl_s)
            length = pipe.execute()[0]
        if length != index + 1:
            raise ChunkMissing(
                f"{name}: {index} chunks were written and {length - 1} exist; the others have "
                "expired or were removed"
            )

    def read(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        """Yield the chunks, fetched a few at a time. Raises `ChunkMissing`."""
        key = self._keys.chunks(name)
        for start in range(first, count, _FETCHED_AT_ONCE):
            wanted = min(_FETCHED_AT_ONCE, count - start)
            found: list[Any] = self._redis.lrange(key, start, start + wanted - 1)
            if len(found) < wanted:
                raise ChunkMissing(f"{name}: chunk {start + len(found)} of {count} is missing")
            yield from found

    def refresh_ttl(self, names: Iterable[str], seconds: int) -> bool:
        """Set the TTL of the names' lists."""
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.expire(self._keys.chunks(name), seconds)
            return all(pipe.execute())

    def remove(self, names: Iterable[str]) -> None:
        """Remove the names' lists."""
        keys = [self._keys.chunks(name) for name in names]
        if keys:
            self._redis.unlink(*keys)

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove the names' lists; other lists of the job expire."""
        self.remove(names)


class ChunkWriter:
    """Writes lines to one name of a store, chunk by chunk, in the calling thread."""

    def __init__(self, store: ChunkStore, name: str) -> None:
        self._store = store
        self._packer = Packer()
        self.name = name
        self.chunks = 0  #: stored so far

    def line(self, line: bytes) -> None:
        """Write a line (without its line end)."""
        self._add(self._packer.add(line))

    def close(self) -> None:
        """Store the lines that do not fill a chunk."""
        self._add(self._packer.flush())

    def _add(self, chunk: bytes | None) -> None:
        if chunk is not None:
            self._store.add(self.name, self.chunks, chunk)
            self.chunks += 1
