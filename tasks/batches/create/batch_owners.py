"""Batch owners: which shard each batch at the API belongs to."""

from collections.abc import Sequence
from typing import Final

from tasks.api.batches import ListedBatch
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create.reconcile import Owner, owner_from_record
from tasks.batches.job_reader import find_shard

#: Seconds that an owner is remembered: about as long as the API keeps the results.
_OWNER_TTL_S: Final = 30 * 86_400


def claim(work: ClaimedShard, batch: ListedBatch, *, confirmed: bool) -> bool:
    """Note the shard as the owner of a batch, so that no other shard adopts it.

    Returns false if the batch is, or may be, another shard's. ``confirmed``: the API named the
    batch in its response to this shard, which overrules a shard that has adopted it.
    """
    if not confirmed and owner_of(work, batch.id) not in (Owner.NONE, Owner.THIS_SHARD):
        return False
    # This overwrites an unconfirmed owner, or one whose record says that it has rejected the batch.
    work.redis.set(work.settings.keys.batch_owner(batch.id), work.member, ex=_OWNER_TTL_S)
    return True


def release(work: ClaimedShard, batch_id: str) -> None:
    """Note that the batch is not the shard's."""
    key = work.settings.keys.batch_owner(batch_id)
    if work.redis.get(key) == work.member.encode():
        work.redis.delete(key)


def owners_of(work: ClaimedShard, batches: Sequence[ListedBatch]) -> dict[str, Owner]:
    """Return the owner of each batch, as seen by this shard, by the batch's id."""
    if not batches:
        return {}
    keys = work.settings.keys
    members = work.redis.mget([keys.batch_owner(batch.id) for batch in batches])
    return {
        batch.id: _owner(work, batch.id, (member or b"").decode())
        for batch, member in zip(batches, members, strict=True)
    }


def owner_of(work: ClaimedShard, batch_id: str) -> Owner:
    """Return the owner of a batch, as seen by this shard."""
    member = work.redis.get(work.settings.keys.batch_owner(batch_id)) or b""
    return _owner(work, batch_id, member.decode())


def _owner(work: ClaimedShard, batch_id: str, member: str) -> Owner:
    if not member:
        return Owner.NONE
    if member == work.member:
        return Owner.THIS_SHARD
    return owner_from_record(find_shard(work.redis, work.settings.keys, member), batch_id)
