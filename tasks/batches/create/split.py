"""Splits a planned shard whose body was too large for the API or a gateway in front of it.

A body that is rejected with 413 pauses the job and is noted in the job's record. From then on,
every planned shard that is as large, or larger than the workers' ``PENSTOCK_SHARD_BYTES``, is split
before it is sent. Its parts are stored first; one write of the records replaces the shard by its
first part and adds the others, so a request is always in exactly one shard.
"""

from collections.abc import Iterator
from typing import Final

from penstock.batches.notices import PauseReason
from penstock.batches.shard import Counts, Shard, ShardState
from penstock.batches.unreadable import errored
from penstock.spool.chunks import ChunkMissing, ChunkStore
from penstock.store import job_scripts
from tasks.api.client import ApiProblem
from tasks.batches.claim import Fenced
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.step_result import Next, Parked
from tasks.batches.stored_requests import ShardWriter, body_bytes, ids_of, requests_of

#: Retry rounds for whose shards numbers are kept free: a retry shard's number is its parent's plus
#: the number of the job's first shards, and no two shards may get the same.
_ROUNDS: Final = 1_000


def after_rejection(work: ClaimedShard, problem: ApiProblem) -> Parked | Next:
    """Handle a 413, for a shard that has released what it had reserved.

    The job is paused, and the shard is split when it is resumed. A shard of one request cannot be
    split: the error is that request's result.
    """
    shard = work.shard
    message = (
        f"the body of batch {shard.number} ({shard.size:,} bytes, {shard.requests:,} requests) "
        f"was rejected as too large (HTTP {problem.status}): {problem.message}"
    )
    if shard.requests == 1:
        return _give_up(work, message)
    [before] = work.job.fields("too_large")
    smallest = min(shard.size, int(before or shard.size))
    work.write(too_large=smallest)
    advice = (
        ". If the job is resumed, its open batches are split in half, or to at most "
        "PENSTOCK_SHARD_BYTES of the workers, if that is smaller"
    )
    pause = {
        **problem.as_error(),
        "type": PauseReason.REQUEST_TOO_LARGE,
        "message": message + advice,
    }
    return Parked(f"the body of {shard.size:,} bytes is too large", pause=pause)


def part_bytes(work: ClaimedShard, rejected: str) -> int | None:
    """Return the most bytes of a part; None: no body of the job was rejected.

    ``rejected``: the field ``too_large`` of the job's record, the smallest size that was.
    """
    return min(work.settings.shard_bytes, int(rejected) // 2) if rejected else None


def is_too_large(work: ClaimedShard) -> bool:
    """Whether a planned shard has to be split, since a body of its size was rejected."""
    [rejected] = work.job.fields("too_large")
    shard = work.shard
    if not rejected or shard.requests < 2:
        return False
    return shard.size >= int(rejected) or shard.size > work.settings.shard_bytes


def split_shard(work: ClaimedShard) -> None:
    """Split a planned shard that is too large; the record is its first part then.

    Nothing is reserved for it. Raises `Fenced`, and `ChunkMissing` if its requests are not in the
    spool.
    """
    [rejected, url, first_shards] = work.job.fields("too_large", "spool", "shards")
    shard = work.shard
    limit = part_bytes(work, rejected)
    assert limit is not None
    staging = work.job.staging_store(url)
    parts = _stored_parts(work, staging, limit, int(first_shards))
    first, *others = parts
    names = [name for part in parts for name in part.chunk_names]
    if not staging.refresh_ttl(names, work.settings.batch_ttl_s):
        raise ChunkMissing(f"shard {shard.number}: its parts expired before they were complete")
    numbers = [part.number for part in others]
    work.advance("create", first, also=others, left=len(others), new_shards=numbers)
    work.job.store().remove([shard.request_chunk_name, shard.id_chunk_name])


def _give_up(work: ClaimedShard, message: str) -> Next:
    shard = work.shard
    rejected = shard.evolve(
        state=ShardState.COLLECTED,
        uniform_result=errored(PauseReason.REQUEST_TOO_LARGE, message),
        counts=Counts(errored=shard.requests),
        errors={str(PauseReason.REQUEST_TOO_LARGE): shard.requests},
        collected_ms=work.job.now_ms(),
    )
    work.advance("create", rejected, left=-1)
    return Next({"kind": "batch", "error": str(PauseReason.REQUEST_TOO_LARGE)})


def _stored_parts(
    work: ClaimedShard, staging: ChunkStore, limit: int, first_shards: int
) -> list[Shard]:
    """Store the shard's requests in parts of at most ``limit`` bytes; returns their records."""
    shard, parts = work.shard, list[ShardWriter]()
    number = shard.number
    for request, id_line in _lines(work.job.store(), shard):
        if not parts or parts[-1].size + body_bytes(request) > limit:
            if parts:
                parts[-1].close()
                number = _new_number(work, first_shards)
            # Unlike that of a retry shard, which can have the same number and epoch.
            spool = f"{number}-{work.lease.epoch}-split"
            parts.append(ShardWriter(staging, number=number, spool=spool))
        parts[-1].add(request, id_line)
    parts[-1].close()
    return [part.record(shard, round=shard.round) for part in parts]


def _new_number(work: ClaimedShard, first_shards: int) -> int:
    added = job_scripts.split(work.job.keys).run(work.redis)
    if not added:
        raise Fenced("the record of the job has expired")
    return work.shard.number % first_shards + first_shards * _ROUNDS * added


def _lines(store: ChunkStore, shard: Shard) -> Iterator[tuple[bytes, bytes]]:
    """Yield each request with the line of its position and custom_id."""
    return zip(requests_of(store, shard), ids_of(store, shard), strict=True)
