"""Stores the requests of a shard that are sent again: as a shard of the next round, or for later.

A request whose result is final and not a success is kept for `retry_failed`, as long as the results
of its job.
"""

from penstock.batches.shard import Shard
from penstock.spool.chunks import ChunkStore, ChunkWriter
from tasks.batches.collect.tally import FAILED, RETRIED
from tasks.batches.stored_requests import ShardWriter, ids_of, requests_of


def store_retry_shard(
    store: ChunkStore, parent: Shard, seen: bytes | bytearray, *, number: int, spool: str
) -> Shard:
    """Copy the requests that are `RETRIED` in ``seen`` to chunks of their own.

    Returns the shard to record for them. Raises `penstock.spool.chunks.ChunkMissing` if the
    requests are not in the spool.
    """
    shard = ShardWriter(store, number=number, spool=spool)
    lines = zip(requests_of(store, parent), ids_of(store, parent), seen, strict=True)
    for request, id_line, mark in lines:
        if mark == RETRIED:
            shard.add(request, id_line)
    shard.close()
    return shard.record(parent, round=parent.round + 1)


def store_failed_requests(
    store: ChunkStore, parent: Shard, seen: bytes | bytearray, *, name: str
) -> int:
    """Copy the requests that are `FAILED` in ``seen``; returns the number of chunks.

    A line is the index of a request in its shard, a space, and its params. Raises
    `penstock.spool.chunks.ChunkMissing` if the requests are not in the spool.
    """
    failed = ChunkWriter(store, name)
    for index, (request, mark) in enumerate(zip(requests_of(store, parent), seen, strict=True)):
        if mark == FAILED:
            failed.line(b"%d %s" % (index, request))
    failed.close()
    return failed.chunks
