"""Slots: how many batches of the whole deployment may be active at the API at once."""

import random
from typing import Final

from penstock.batches.shard import ShardState
from penstock.store.limit_scripts import acquire_active_batch
from tasks.batches.claim import ClaimedShard

#: The API ends every batch within 24 hours; a slot that was not given back then counts no more.
_LIFE_MS: Final = 25 * 3_600_000


def take(work: ClaimedShard) -> bool:
    """Take a slot for the shard's batch. False: it has to wait for one."""
    settings, shard = work.settings, work.shard
    return acquire_active_batch(
        settings.keys,
        member=work.member,
        requests=shard.requests,
        max_batches=settings.active_batches_limit,
        max_requests=settings.queued_requests_limit,
        ttl_ms=_LIFE_MS,
    ).run(work.redis)


def free(work: ClaimedShard) -> tuple[int, ...]:
    """Give the shard's slot back; returns the shard of the job that should be woken for it, if one
    waits. To be called once the shard's batch has ended, or it will have none."""
    give_back(work)
    waiting = [
        shard.number
        for shard in work.all_shards()
        if shard.state == ShardState.PLANNED and shard.number != work.shard.number
    ]
    # Any: of several that end together, each should wake another.
    return (random.choice(waiting),) if waiting else ()  # noqa: S311 - guards nothing


def give_back(work: ClaimedShard) -> None:
    """Give the shard's slot back."""
    work.redis.hdel(work.settings.keys.active_batches, work.member)
