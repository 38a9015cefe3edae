"""The requests of a shard in the spool: read, and written as those of a new shard."""

from collections.abc import Iterator

from penstock import json_text
from penstock.batches.shard import Counts, Shard
from penstock.batches.wire import EMPTY_BODY_BYTES, REQUEST_BYTES
from penstock.input_bound import input_bound
from penstock.spool.chunks import ChunkStore, ChunkWriter, lines_in


def requests_of(store: ChunkStore, shard: Shard) -> Iterator[bytes]:
    """Yield the params of each request. Raises `penstock.spool.chunks.ChunkMissing`."""
    return lines_in(store.read(shard.request_chunk_name, shard.request_chunks))


def ids_of(store: ChunkStore, shard: Shard) -> Iterator[bytes]:
    """Yield the position and custom_id of each request, with a space between them.

    Raises `penstock.spool.chunks.ChunkMissing`.
    """
    return lines_in(store.read(shard.id_chunk_name, shard.id_chunks))


def body_bytes(request: bytes) -> int:
    """Return the bytes that a request adds to a body, with the comma before the next."""
    return len(request) + REQUEST_BYTES + 1


class ShardWriter:
    """Stores requests in chunks of their own, and makes the record of their shard."""

    def __init__(self, store: ChunkStore, *, number: int, spool: str) -> None:
        self._number = number
        self._spool = spool
        self._requests = ChunkWriter(store, f"requests-{spool}")
        self._ids = ChunkWriter(store, f"ids-{spool}")
        self._count = 0
        self._positions: list[int] = []  # of the first and the last request
        self._size_by_model: dict[str, list[int]] = {}
        self.size = EMPTY_BODY_BYTES - 1  #: bytes of the body: one comma less than requests

    def add(self, request: bytes, id_line: bytes) -> None:
        """Store a request and the line of its position and custom_id."""
        self._requests.line(request)
        self._ids.line(id_line)
        self._count += 1
        self.size += body_bytes(request)
        position = int(id_line.partition(b" ")[0])
        self._positions = [self._positions[0] if self._positions else position, position]
        params = json_text.loads(request)
        sizes = self._size_by_model.setdefault(params["model"], [0, 0, 0])
        tokens, full = input_bound(params, request)
        sizes[0] += tokens
        sizes[1] += params["max_tokens"]
        sizes[2] += full

    def close(self) -> None:
        """Store the last lines."""
        self._requests.close()
        self._ids.close()

    def record(self, parent: Shard, *, round: int) -> Shard:
        """Return the record of the planned shard; ``parent`` had the requests before."""
        return Shard(
            number=self._number,
            requests=self._count,
            size=self.size,
            first=self._positions[0],
            last=self._positions[1],
            model=next(iter(self._size_by_model)),
            betas=parent.betas,
            round=round,
            size_by_model=self._size_by_model,
            spool=self._spool,
            request_chunks=self._requests.chunks,
            id_chunks=self._ids.chunks,
            counts=Counts(processing=self._count),
        )
