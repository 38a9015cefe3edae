"""Stores the requests of a shard that are sent again: as a shard of the next round, or for later.

A request whose result is final and not a success is kept for `retry_failed`, as long as the results
of its job.
"""

from collections.abc import Iterator

from penstock import json_text
from penstock.batches.shard import Counts, Shard
from penstock.batches.wire import EMPTY_BODY_BYTES, REQUEST_BYTES
from penstock.spool.chunks import ChunkStore, ChunkWriter, lines_of
from tasks.batches.collect.tally import FAILED, RETRIED


def store_retry_shard(
    store: ChunkStore, parent: Shard, seen: bytes | bytearray, *, number: int, spool: str
) -> Shard:
    """Copy the requests that are `RETRIED` in ``seen`` to chunks of their own.

    Returns the shard to record for them. Raises `penstock.spool.chunks.ChunkMissing` if the
    requests are not in the spool.
    """
    requests = ChunkWriter(store, f"requests-{spool}")
    ids = ChunkWriter(store, f"ids-{spool}")
    positions: list[int] = []
    size_by_model: dict[str, list[int]] = {}
    count, size, model = 0, EMPTY_BODY_BYTES - 1, ""
    lines = zip(_requests(store, parent), _ids(store, parent), seen, strict=True)
    for request, id_line, mark in lines:
        if mark != RETRIED:
            continue
        requests.line(request)
        ids.line(id_line)
        count += 1
        size += len(request) + REQUEST_BYTES + 1  # the comma before the next
        position = int(id_line.partition(b" ")[0])
        positions = [positions[0], position] if positions else [position, position]
        params = json_text.loads(request)
        model = model or params["model"]
        sizes = size_by_model.setdefault(params["model"], [0, 0])
        sizes[0] += len(request)
        sizes[1] += params["max_tokens"]
    requests.close()
    ids.close()
    return Shard(
        number=number,
        requests=count,
        size=size,
        first=positions[0],
        last=positions[1],
        model=model,
        betas=parent.betas,
        round=parent.round + 1,
        size_by_model=size_by_model,
        spool=spool,
        request_chunks=requests.chunks,
        id_chunks=ids.chunks,
        counts=Counts(processing=count),
    )


def store_failed_requests(
    store: ChunkStore, parent: Shard, seen: bytes | bytearray, *, name: str
) -> int:
    """Copy the requests that are `FAILED` in ``seen``; returns the number of chunks.

    A line is the index of a request in its shard, a space, and its params. Raises
    `penstock.spool.chunks.ChunkMissing` if the requests are not in the spool.
    """
    failed = ChunkWriter(store, name)
    for index, (request, mark) in enumerate(zip(_requests(store, parent), seen, strict=True)):
        if mark == FAILED:
            failed.line(b"%d %s" % (index, request))
    failed.close()
    return failed.chunks


def _requests(store: ChunkStore, shard: Shard) -> Iterator[bytes]:
    for chunk in store.read(shard.request_chunk_name, shard.request_chunks):
        yield from lines_of(chunk)


def _ids(store: ChunkStore, shard: Shard) -> Iterator[bytes]:
    for chunk in store.read(shard.id_chunk_name, shard.id_chunks):
        yield from lines_of(chunk)
