"""Gathers the retry shards of a round, so that their requests share batches.

Each shard of a job that has requests to retry gets a retry shard of its own, in the write that
collects it. Sent at once, a hundred shards with one such request each would become a hundred
batches. So a retry shard waits for the batches of its round for about as long as its first batch
took. Then the one with the lowest number takes the requests of the others.

The worker claims all of these shards. One write changes their records, and Redis refuses it unless
every claim still holds: a request is always in exactly one shard that can be sent.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

import redis

from penstock.batches.shard import Counts, Shard, ShardState
from penstock.batches.wire import EMPTY_BODY_BYTES
from penstock.clock import now_ms
from penstock.jitter import spread
from penstock.spool.chunks import ChunkMissing, ChunkStore
from tasks.batches.claim import Fenced, InGracePeriod, NotClaimed
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create import split
from tasks.batches.create.batch_creator import release_reservations
from tasks.batches.limits.prices import bound_usd
from tasks.batches.limits.waiting import scaled_wait_s
from tasks.batches.step_result import RetryIn

#: Maximum seconds that a retry shard waits for the batches of its round, and between two looks.
MAX_WAIT_S: Final = 900.0
_LOOK_S: Final = 10.0
#: Seconds for which a shard waits, after that, to be taken by one with a lower number.
_TAKEN_WITHIN_S: Final = 30.0

#: Maximum number of shards that are taken at once.
_SHARDS_AT_ONCE: Final = 50


def gather(work: ClaimedShard) -> RetryIn | None:
    """Take the requests of other retry shards. None: the shard can be sent; it may have changed."""
    if not can_share(work.shard):
        return None
    shards = work.job.shards()
    [first_round, rejected] = work.job.fields("shards", "too_large")
    wait_s = wait_for_round_s(work.shard, shards, int(first_round), now_ms())
    if wait_s > 0:
        reason = f"waiting for other requests to retry in round {work.shard.round}"
        # Each look reads all shards of the job.
        return RetryIn(spread(scaled_wait_s(wait_s, len(shards)), by=0.1), reason)
    partners = partners_of(work.shard, shards, most_bytes=split.part_bytes(work, rejected))
    if partners:
        partners = _affordable(work, partners)
    if partners:
        _take(work, partners)
    return None


def can_share(shard: Shard) -> bool:
    """Whether a shard has requests to retry and no call for them was ever made; pure."""
    return (
        shard.round > 0
        and shard.state == ShardState.PLANNED
        and not (shard.nonce or shard.abandoned_nonces or shard.batch_id or shard.live)
    )


def wait_for_round_s(shard: Shard, shards: Sequence[Shard], first_round: int, now_ms: int) -> float:
    """Return how many seconds to wait before the next look; 0: the shard need not wait. Pure.

    ``shards``: all of the job. ``first_round``: the number of those it was divided into.
    """
    parent = next((each for each in shards if each.number == shard.number - first_round), None)
    if parent is None or not parent.collected_ms:
        return 0.0
    took_s = max(parent.ended_ms - parent.created_ms, 0) / 1000
    waited_s = (now_ms - parent.collected_ms) / 1000
    longest_s = min(took_s, MAX_WAIT_S)
    look_s = min(_LOOK_S, max(took_s / 10, 0.5))
    running = any(
        each.round == shard.round - 1
        and each.state in (ShardState.IN_PROGRESS, ShardState.ENDED)
        and not each.live
        for each in shards
    )
    if running and waited_s < longest_s:
        return look_s
    lower = any(_together(shard, each) and each.number < shard.number for each in shards)
    return look_s if lower and waited_s < longest_s + _TAKEN_WITHIN_S else 0.0


def partners_of(
    shard: Shard, shards: Sequence[Shard], *, most_bytes: int | None = None
) -> list[Shard]:
    """Return the shards with higher numbers whose requests fit into the same batch; pure.

    A batch never becomes larger than the largest of the job, so that the limits that its producer
    chose are kept. ``most_bytes``: of a body, if the API has rejected a larger one of the job:
    what was split must not become one again.
    """
    most_requests = max(each.requests for each in shards)
    largest = max(each.size for each in shards)
    most_bytes = largest if most_bytes is None else min(largest, most_bytes)
    requests, size = shard.requests, shard.size
    found: list[Shard] = []
    for each in sorted(shards, key=lambda each: each.number):
        if not _together(shard, each) or each.number < shard.number:
            continue
        fits = requests + each.requests <= most_requests and size + each.size <= most_bytes
        if fits and len(found) < _SHARDS_AT_ONCE:
            found.append(each)
            requests, size = requests + each.requests, size + each.size
    return found


def merged(shard: Shard, others: Sequence[Shard], *, spool: str) -> Shard:
    """Return the record of a shard that has taken the requests of ``others``; pure."""
    every = [shard, *others]
    size_by_model: dict[str, list[int]] = {}
    for each in every:
        for model, added in each.size_by_model.items():
            sizes = size_by_model.get(model, [])
            # An earlier version recorded two sizes.
            size_by_model[model] = [a + b for a, b in zip_longest(sizes, added, fillvalue=0)]
    requests = sum(each.requests for each in every)
    return shard.evolve(
        requests=requests,
        # A body of one shard counts no comma after its last request.
        size=sum(each.size for each in every) - (len(every) - 1) * (EMPTY_BODY_BYTES - 1),
        first=min(each.first for each in every),
        last=max(each.last for each in every),
        size_by_model=size_by_model,
        spool=spool,
        request_chunks=sum(each.request_chunks for each in every),
        id_chunks=sum(each.id_chunks for each in every),
        counts=Counts(processing=requests),
    )


def _affordable(work: ClaimedShard, partners: list[Shard]) -> list[Shard]:
    """Return the first partners with which the batch can be within what is left of the cost cap.

    A batch of all would pause a job that can pay for one after the other.
    """
    cap, spent = work.redis.hmget(work.job.keys.money, "cap", "spent")
    if cap is None:
        return partners
    left = int(cap) - int(spent or 0)
    for count in range(len(partners), 0, -1):
        together = merged(work.shard, partners[:count], spool="")
        price = bound_usd(together.size_by_model, live=False)
        if price is None or price * 1_000_000 <= left:
            return partners[:count]
    return []


def _together(shard: Shard, other: Shard) -> bool:
    return (
        other.number != shard.number
        and can_share(other)
        and (other.round, other.betas) == (shard.round, shard.betas)
    )


def _take(work: ClaimedShard, partners: Sequence[Shard]) -> None:
    """Move the requests of those partners that can be claimed to the shard of ``work``."""
    with contextlib.ExitStack() as claims:
        # Not one that has changed since, and may have taken requests of others itself.
        taken = [other for other in _claimed(work, partners, claims) if other.shard in partners]
        if not taken:
            return
        for each in (work, *taken):  # what a worker has reserved that died before its call
            release_reservations(each)
        others = [other.shard for other in taken]
        emptied = [_emptied(other) for other in others]
        before = work.shard
        # Unlike that of a retry shard, which can have the same number and epoch.
        after = merged(before, others, spool=f"{before.number}-{work.lease.epoch}-shared")
        with _staged(work, after, [before, *others]):
            work.advance("create", after, also=emptied, left=-len(taken), claimed=taken)
        for other, shard in zip(taken, emptied, strict=True):
            with contextlib.suppress(Fenced):  # the record is written: this is for its readers
                other.advance("create", shard)
                other.release(done=True)
        with contextlib.suppress(Exception):  # they expire with the job
            names = [shard.request_chunk_name for shard in (before, *others)]
            work.job.store().remove([*names, before.id_chunk_name])


def _claimed(
    work: ClaimedShard, partners: Sequence[Shard], claims: contextlib.ExitStack
) -> Iterator[ClaimedShard]:
    for partner in partners:
        work.redis.hdel(work.job.keys.claims, f"{partner.number}:due")  # it may be waiting too
        with contextlib.suppress(NotClaimed, InGracePeriod):  # it is sent alone, or taken later
            yield claims.enter_context(
                ClaimedShard.claim(
                    work.redis,
                    work.settings,
                    job=work.job.id,
                    shard=partner.number,
                    worker=work.lease.worker,
                )
            )


def _emptied(shard: Shard) -> Shard:
    """Return the record of a shard whose requests are in another one."""
    return shard.evolve(
        state=ShardState.COLLECTED,
        collected_ms=now_ms(),
        retried=shard.requests,
        counts=Counts(),
    )


@contextlib.contextmanager
def _staged(work: ClaimedShard, shard: Shard, sources: Sequence[Shard]) -> Iterator[None]:
    """Store the chunks of ``sources`` as those of ``shard``, which the block records."""
    [url] = work.job.fields("spool")
    store = work.job.staging_store(url)
    names = (shard.request_chunk_name, shard.id_chunk_name)
    try:
        _copy(store, shard, sources, work.settings.batch_ttl_s)
        yield
    except redis.RedisError:
        raise  # the record may name the chunks
    except Exception:
        with contextlib.suppress(Exception):  # chunks that are not removed here expire
            store.remove(names)
        raise


def _copy(store: ChunkStore, shard: Shard, sources: Sequence[Shard], ttl_s: int) -> None:
    """Copy the chunks and give them the lifetime of the job. Raises `ChunkMissing`."""
    stored = Counter[str]()
    for source in sources:
        for name, read, count in (
            (shard.request_chunk_name, source.request_chunk_name, source.request_chunks),
            (shard.id_chunk_name, source.id_chunk_name, source.id_chunks),
        ):
            for chunk in store.read(read, count):
                store.add(name, stored[name], chunk)
                stored[name] += 1
    if not store.refresh_ttl(stored, ttl_s):
        raise ChunkMissing(f"{shard.request_chunk_name}: expired before it was recorded")
