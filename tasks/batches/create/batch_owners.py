"""Batch owners: which shard a batch at the API belongs to, so that no other shard takes it."""

from collections.abc import Sequence
from typing import Final

from tasks.api.batches import ListedBatch
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create.reconcile import Owner, owner_from_record
from tasks.batches.job_reader import find_shard

#: Seconds that an owner is remembered: about as long as the API keeps the results.
_OWNER_TTL_S: Final = 30 * 86_400


def claim(work: ClaimedShard, batch: ListedBatch, *, confirmed: bool) -> bool:
    """Note that the batch is the shard's. False: it is, or may be, another's.

    ``confirmed``: the API has named the batch in its response, whatever another may have guessed.
    """
    if not confirmed and owner_of(work, batch.id) not in (Owner.NONE, Owner.THIS_SHARD):
        return False
    # What is overwritten here is a guess, or an owner that no longer claims it.
    work.redis.set(work.settings.keys.batch_owner(batch.id), work.member, ex=_OWNER_TTL_S)
    return True


def release(work: ClaimedShard, batch_id: str) -> None:
    """Note that the batch is not the shard's."""
    key = work.settings.keys.batch_owner(batch_id)
    if work.redis.get(key) == work.member.encode():
        work.redis.delete(key)


def owners_of(work: ClaimedShard, batches: Sequence[ListedBatch]) -> dict[str, Owner]:
    """Id → whose the batch is."""
    return {batch.id: owner_of(work, batch.id) for batch in batches}


def owner_of(work: ClaimedShard, batch_id: str) -> Owner:
    """Whose a batch is."""
    member = (work.redis.get(work.settings.keys.batch_owner(batch_id)) or b"").decode()
    if not member:
        return Owner.NONE
    if member == work.member:
        return Owner.THIS_SHARD
    return owner_from_record(find_shard(work.redis, work.settings.keys, member), batch_id)
