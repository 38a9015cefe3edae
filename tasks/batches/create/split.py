"""Splits a planned shard whose body was too large for the API or a gateway in front of it.

A body that is rejected with 413 pauses the job and is noted in the job's record. From then on,
every planned shard that is as large, or larger than the workers' ``PENSTOCK_SHARD_BYTES``, is split
before it is sent. Its parts are stored first; one write of the records replaces the shard by its
first part and adds the others, so a request is always in exactly one shard.
"""

from collections.abc import Iterator
from typing import Final

from penstock import json_text
from penstock.batches.notices import PauseReason
from penstock.batches.shard import Counts, Shard, ShardState
from penstock.batches.wire import EMPTY_BODY_BYTES, REQUEST_BYTES
from penstock.spool.chunks import ChunkMissing, ChunkStore, ChunkWriter, lines_of
from penstock.spool.stores import open_chunk_store
from penstock.store import job_scripts
from tasks.api.client import ApiProblem
from tasks.batches.claim import Fenced
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.step_result import Next, Parked

#: Retry rounds for whose shards numbers are kept free: a retry shard's number is its parent's plus
#: the number of the job's first shards, and no two shards may get the same.
_ROUNDS: Final = 1_000

#: Seconds until the chunks of a split expire whose worker died before it recorded them.
_STAGING_TTL_S: Final = 3_600


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
    staging = open_chunk_store(url, work.redis, work.job.keys, _STAGING_TTL_S)
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
    error = {"type": PauseReason.REQUEST_TOO_LARGE, "message": message}
    rejected = shard.evolve(
        state=ShardState.COLLECTED,
        uniform_result={"type": "errored", "error": {"type": "error", "error": error}},
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
    shard, parts = work.shard, list[_Part]()
    number = shard.number
    for request, id_line in _lines(work.job.store(), shard):
        added = len(request) + REQUEST_BYTES + 1  # the comma before the next
        if not parts or parts[-1].size + added > limit:
            if parts:
                parts[-1].close()
                number = _new_number(work, first_shards)
            parts.append(_Part(staging, number, work.lease.epoch))
        parts[-1].add(request, id_line, added)
    parts[-1].close()
    return [part.record(shard) for part in parts]


def _new_number(work: ClaimedShard, first_shards: int) -> int:
    added = job_scripts.split(work.job.keys).run(work.redis)
    if not added:
        raise Fenced("the record of the job has expired")
    return work.shard.number % first_shards + first_shards * _ROUNDS * added


def _lines(store: ChunkStore, shard: Shard) -> Iterator[tuple[bytes, bytes]]:
    """Yield each request with the line of its position and custom_id."""
    names = (
        (shard.request_chunk_name, shard.request_chunks),
        (shard.id_chunk_name, shard.id_chunks),
    )
    requests, ids = (
        (line for chunk in store.read(name, count) for line in lines_of(chunk))
        for name, count in names
    )
    return zip(requests, ids, strict=True)


class _Part:
    """A part of a shard that is being stored."""

    def __init__(self, store: ChunkStore, number: int, epoch: int) -> None:
        # Unlike those of a retry shard, which can have the same number and epoch.
        self._spool = f"{number}-{epoch}-split"
        self._number = number
        self._requests = ChunkWriter(store, f"requests-{self._spool}")
        self._ids = ChunkWriter(store, f"ids-{self._spool}")
        self._count = 0
        self._positions: list[int] = []
        self._size_by_model: dict[str, list[int]] = {}
        self.size = EMPTY_BODY_BYTES - 1  #: bytes of its body: one comma less than requests

    def add(self, request: bytes, id_line: bytes, added: int) -> None:
        """Store a request, which adds this many bytes to the body."""
        self._requests.line(request)
        self._ids.line(id_line)
        self._count += 1
        self.size += added
        position = int(id_line.partition(b" ")[0])
        self._positions = [*self._positions[:1], position]
        params = json_text.loads(request)
        sizes = self._size_by_model.setdefault(params["model"], [0, 0])
        sizes[0] += len(request)
        sizes[1] += params["max_tokens"]

    def close(self) -> None:
        """Store the last lines."""
        self._requests.close()
        self._ids.close()

    def record(self, shard: Shard) -> Shard:
        """Return the record of this part of ``shard``, which is planned."""
        return Shard(
            number=self._number,
            requests=self._count,
            size=self.size,
            first=self._positions[0],
            last=self._positions[-1],
            model=next(iter(self._size_by_model)),
            betas=shard.betas,
            round=shard.round,
            size_by_model=self._size_by_model,
            spool=self._spool,
            request_chunks=self._requests.chunks,
            id_chunks=self._ids.chunks,
            counts=Counts(processing=self._count),
        )
