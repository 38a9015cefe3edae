"""Shards that are collected by hand, as the steps leave them, for tests of readers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from penstock.batches.shard import Counts, Shard
from penstock.batches.wire import wire_id
from penstock.spool.chunks import ChunkMissing, ChunkStore, ChunkWriter, Packer

NONCE = "abcdefghij12"

#: Position in the job and custom_id.
Named = tuple[int, str]


class MemoryChunkStore:
    """A chunk store in memory; ``reads`` counts the chunks that were read."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[bytes]] = {}
        self.reads = 0

    def add(self, name: str, index: int, chunk: bytes) -> None:
        """Store a chunk."""
        self.chunks.setdefault(name, []).append(chunk)
        assert len(self.chunks[name]) == index + 1

    def read(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        """The chunks of a name."""
        found = self.chunks.get(name, [])
        for index in range(first, count):
            if index >= len(found):
                raise ChunkMissing(f"{name}: chunk {index} of {count} is missing")
            self.reads += 1
            yield found[index]

    def refresh_ttl(self, names: Iterable[str], seconds: int) -> bool:
        """Return whether all names are there; nothing expires here."""
        return all(name in self.chunks for name in names)

    def remove(self, names: Iterable[str]) -> None:
        """Remove chunks."""
        for name in names:
            self.chunks.pop(name, None)

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove everything."""
        self.chunks.clear()


def succeeded(custom_id: str) -> dict[str, Any]:
    """A result that names its request."""
    content = [{"type": "text", "text": f"answer to {custom_id}\u2028\r\x85."}]
    usage = {"input_tokens": 3, "output_tokens": 5}
    message = {"model": "claude-haiku-4-5", "stop_reason": "end_turn"}
    return {"type": "succeeded", "message": {**message, "content": content, "usage": usage}}


def spooled(
    store: ChunkStore, number: int, named: Sequence[Named], *, limit: int = 512, **fields: Any
) -> Shard:
    """A planned shard with its ids."""
    spool = fields.pop("spool", str(number))
    ids = _writer(store, f"ids-{spool}", limit)
    for position, custom_id in named:
        ids.line(b"%d %s" % (position, custom_id.encode()))
    ids.close()
    positions = [position for position, _ in named]
    return Shard(
        number=number,
        requests=len(named),
        first=min(positions),
        last=max(positions),
        model="claude-haiku-4-5",
        spool=spool,
        id_chunks=ids.chunks,
        counts=Counts(processing=len(named)),
        **fields,
    )


def collected(
    store: ChunkStore,
    shard: Shard,
    named: Sequence[Named],
    order: Iterable[int],
    *,
    retried: Iterable[int] = (),
    result: Callable[[str], dict[str, Any]] = succeeded,
    at_ms: int = 1,
    limit: int = 512,
) -> Shard:
    """The shard with its results, stored in this ``order`` of its requests, without those in
    ``retried``."""
    writer = _writer(store, f"results-{shard.number}-1", limit)
    others = frozenset(retried)
    lines = [index for index in order if index not in others]
    for index in lines:
        raw = {"custom_id": wire_id(NONCE, index), "result": result(named[index][1])}
        writer.line(orjson.dumps(raw))
    writer.close()
    return shard.evolve(
        state="collected",
        batch_id=f"msgbatch_{shard.number}",
        collected_ms=at_ms,
        results=writer.name,
        result_chunks=writer.chunks,
        result_lines=len(lines),
        counts=Counts(succeeded=len(lines)),
        retried=len(others),
        usage={"claude-haiku-4-5": {"input_tokens": 3 * len(lines)}} if lines else {},
    )


def _writer(store: ChunkStore, name: str, limit: int) -> ChunkWriter:
    writer = ChunkWriter(store, name)
    writer._packer = Packer(limit)
    return writer
