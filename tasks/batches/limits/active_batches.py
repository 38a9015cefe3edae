"""Slots that limit how many batches of the deployment are active at the API at once."""

import random
from typing import Final

from penstock.batches.shard import ShardState
from penstock.store.limit_scripts import acquire_active_batch
from tasks.batches.claimed_shard import ClaimedShard

#: Milliseconds after which a slot that was not released counts no more: the API ends every batch
#: within 24 hours.
_SLOT_TTL_MS: Final = 25 * 3_600_000


#: Shards of the job that are looked at for one to wake. In a larger job, a shard that is not among
#: them asks again by itself after a while.
_LOOKED_AT: Final = 200


def acquire(work: ClaimedShard) -> bool:
    """Acquire a slot for the shard's batch. False: none is free, and the shard has to wait."""
    settings, shard = work.settings, work.shard
    return acquire_active_batch(
        settings.keys,
        member=work.member,
        requests=shard.requests,
        max_batches=settings.active_batches_limit,
        max_requests=settings.queued_requests_limit,
        ttl_ms=_SLOT_TTL_MS,
    ).run(work.redis)


def release_and_wake(work: ClaimedShard) -> tuple[int, ...]:
    """Release the shard's slot; returns the number of a shard of the job to wake for it, if one is
    waiting. Call this when the shard's batch has ended, or when it is certain to get none."""
    release(work)
    waiting = [
        shard.number
        for shard in work.job.some_shards(_LOOKED_AT)
        if shard.state == ShardState.PLANNED and shard.number != work.shard.number
    ]
    # A random one, so that several batches that end together wake different shards.
    return (random.choice(waiting),) if waiting else ()  # noqa: S311 - no secret


def release(work: ClaimedShard) -> None:
    """Release the shard's slot."""
    work.redis.hdel(work.settings.keys.active_batches, work.member)
