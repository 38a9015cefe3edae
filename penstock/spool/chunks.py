"""Chunks: many lines as one compressed piece, and where a job's chunks are kept.

Request and result lines of a job lie in chunks, so that neither a message nor a process ever
holds a whole job. A name (``requests-0``, ``results-0-3``) has chunks numbered from 0; how many
belong to it stands in the shard's record, so that a lost chunk is noticed.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

import zstandard

from penstock.errors import PenstockError
from penstock.keys import JobKeys
from penstock.store.connection import Connection

#: A chunk holds lines up to about so many bytes before compression.
CHUNK_BYTES: Final = 512 * 1024

#: Chunks fetched from Redis at once.
_AHEAD: Final = 4


class ChunkMissing(PenstockError):
    """A stored chunk of the job is missing: it has expired, or somebody removed it."""


class Packer:
    """Packs lines into chunks as they come."""

    def __init__(self, limit: int = CHUNK_BYTES) -> None:
        self._limit = limit
        self._compressor = compressor()
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, line: bytes) -> bytes | None:
        """Take a line (without its line end); returns a chunk when one is full."""
        self._lines.append(line)
        self._size += len(line) + 1
        return self.close() if self._size >= self._limit else None

    def close(self) -> bytes | None:
        """The chunk of what is left, if anything is."""
        if not self._lines:
            return None
        self._lines.append(b"")
        chunk = self._compressor.compress(b"\n".join(self._lines))
        self._lines, self._size = [], 0
        return chunk


def pack(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines (without line ends) as chunks."""
    packer = Packer()
    for line in lines:
        chunk = packer.add(line)
        if chunk is not None:
            yield chunk
    chunk = packer.close()
    if chunk is not None:
        yield chunk


def compressor() -> zstandard.ZstdCompressor:
    """Makes a block of lines, each with its ``\\n``, a chunk; for one thread at a time."""
    # The levels below 1 save next to no time, and take up to twice the space.
    return zstandard.ZstdCompressor(level=1)


def unpack(chunk: bytes) -> bytes:
    """The lines of a chunk as one block; every line ends in ``\\n``."""
    return zstandard.ZstdDecompressor().decompress(chunk)


def lines_of(chunk: bytes) -> list[bytes]:
    """The lines of a chunk. Split on ``\\n`` alone: JSON may contain U+2028, U+0085 and other
    characters that ``splitlines`` takes for line ends."""
    return unpack(chunk)[:-1].split(b"\n")


class ChunkStore(Protocol):
    """Keeps the chunks of one job."""

    def add(self, name: str, index: int, chunk: bytes) -> None:
        """Store chunk number ``index`` of ``name``; they come in order."""

    def read(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        """The chunks of ``name`` from ``first`` up to ``count``. Raises `ChunkMissing`."""

    def keep(self, names: Iterable[str], seconds: int) -> bool:
        """Let these live for so many seconds from now. Returns whether all of them are there, as
        far as that can be told without looking at each chunk."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove these, if they are there."""

    def clear(self, names: Iterable[str]) -> None:
        """Remove these, and whatever else of the job can be found."""


class RedisChunks:
    """Chunks in Redis: a list for each name."""

    def __init__(self, connection: Connection, keys: JobKeys, ttl_s: int) -> None:
        self._redis = connection
        self._keys = keys
        self._ttl_s = ttl_s

    def add(self, name: str, index: int, chunk: bytes) -> None:
        """Store a chunk. Raises `ChunkMissing` if those before it are not there (any more)."""
        key = self._keys.chunks(name)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(key, chunk)
            pipe.expire(key, self._ttl_s)
            length = pipe.execute()[0]
        if length != index + 1:
            raise ChunkMissing(
                f"{name}: there are {length - 1} chunks where {index} were written; the others "
                "expired, or somebody removed them"
            )

    def read(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        """The chunks, fetched a few at a time."""
        key = self._keys.chunks(name)
        for start in range(first, count, _AHEAD):
            wanted = min(_AHEAD, count - start)
            found: list[Any] = self._redis.lrange(key, start, start + wanted - 1)
            if len(found) < wanted:
                raise ChunkMissing(f"{name}: chunk {start + len(found)} of {count} is missing")
            yield from found

    def keep(self, names: Iterable[str], seconds: int) -> bool:
        """Renew the TTL of their lists."""
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.expire(self._keys.chunks(name), seconds)
            return all(pipe.execute())

    def remove(self, names: Iterable[str]) -> None:
        """Remove their lists."""
        keys = [self._keys.chunks(name) for name in names]
        if keys:
            self._redis.unlink(*keys)

    def clear(self, names: Iterable[str]) -> None:
        """Remove their lists; what is forgotten elsewhere expires."""
        self.remove(names)


class ChunkWriter:
    """Writes lines to a name of a store, chunk by chunk."""

    def __init__(self, store: ChunkStore, name: str) -> None:
        self._store = store
        self._packer = Packer()
        self.name = name
        self.chunks = 0  #: stored so far

    def line(self, line: bytes) -> None:
        """Take a line (without its line end)."""
        self._add(self._packer.add(line))

    def close(self) -> None:
        """Store what is left."""
        self._add(self._packer.close())

    def _add(self, chunk: bytes | None) -> None:
        if chunk is not None:
            self._store.add(self.name, self.chunks, chunk)
            self.chunks += 1
