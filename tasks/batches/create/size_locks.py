"""Whose a batch is, and which sizes are in use: what all create steps share in Redis."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from penstock.batches.shard import Shard, ShardState
from penstock.clock import now_ms
from penstock.keys import Keys
from penstock.store.connection import Connection
from penstock.store.limit_scripts import SizeLockHolder, acquire_size_lock
from tasks.api.batches import ListedBatch
from tasks.batches.claim import ClaimedShard
from tasks.batches.create.reconcile import Owner, held_by

_TAG_TTL_S: Final = 26 * 3_600
_BOUND_TTL_S: Final = 30 * 86_400

#: So long a call whose fate is open keeps its size to itself. Where nobody finds out, as with a job
#: that stays paused, others must go on; that two may be mixed up costs time, not money.
_ALONE_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Tag:
    """The calls of one size whose fate is not known."""

    open: bool = False  #: one is out
    #: ``<job>/<shard>`` of those that were given up → time in ms of the batch before them
    abandoned: Mapping[str, int] = field(default_factory=dict)


def take(work: ClaimedShard, nonce: str) -> bool:
    """Take the shard's size for its next call. False: another call of this size is out."""
    stale: SizeLockHolder | None = None
    for _ in range(2):
        other = acquire_size_lock(
            work.settings.keys,
            work.shard.requests,
            member=work.member,
            nonce=nonce,
            ttl_s=_TAG_TTL_S,
            stale=stale,
        ).run(work.redis)
        if other is None:
            return True
        found = _shard_of(work.redis, work.settings.keys, other.field.removeprefix("open:"))
        if found is not None and found.state in (ShardState.PLANNED, ShardState.SENDING):
            if not found.sent_ms or work.now_ms() - found.sent_ms < _ALONE_MS:
                return False
            _open(work, nonce)
            return True
        stale = other  # its worker died before it could give the size back
    return False


def reopen(work: ClaimedShard) -> None:
    """The shard's call is out after all: what was taken for its batch is another's."""
    _open(work, work.shard.nonce)


def _open(work: ClaimedShard, nonce: str) -> None:
    key = work.settings.keys.size_lock(work.shard.requests)
    with work.redis.pipeline(transaction=True) as pipe:
        pipe.hset(key, f"open:{work.member}", nonce)
        pipe.expire(key, _TAG_TTL_S)
        pipe.execute()


def give_back(work: ClaimedShard) -> None:
    """The shard has no call out."""
    work.redis.hdel(work.settings.keys.size_lock(work.shard.requests), f"open:{work.member}")


def lose(work: ClaimedShard) -> None:
    """The shard's call is given up; its batch may still appear."""
    key = work.settings.keys.size_lock(work.shard.requests)
    with work.redis.pipeline(transaction=True) as pipe:
        pipe.hdel(key, f"open:{work.member}")
        until_ms = now_ms() + _TAG_TTL_S * 1000
        pipe.hset(key, f"lost:{work.member}", f"{work.shard.watermark_ms} {until_ms}")
        pipe.expire(key, _TAG_TTL_S)
        pipe.execute()


def tags_of(connection: Connection, keys: Keys, sizes: Iterable[int]) -> dict[int, Tag]:
    """Size → the calls of this size."""
    wanted = sorted(set(sizes))
    with connection.pipeline(transaction=False) as pipe:
        for size in wanted:
            pipe.hgetall(keys.size_lock(size))
        found = pipe.execute()
    return {size: _tag(fields) for size, fields in zip(wanted, found, strict=True)}


def bind(work: ClaimedShard, batch: ListedBatch, *, confirmed: bool) -> bool:
    """Note that the batch is the shard's. False: it is, or may be, another's. ``sure``: the API
    said so, whatever another may have guessed."""
    if not confirmed and owner_of(work, batch.id) not in (Owner.NOBODY, Owner.OURS):
        return False
    # What is overwritten here is a guess, or an owner that no longer claims it.
    work.redis.set(work.settings.keys.batch_owner(batch.id), work.member, ex=_BOUND_TTL_S)
    return True


def let_go(work: ClaimedShard, batch_id: str) -> None:
    """The batch turned out not to be the shard's."""
    key = work.settings.keys.batch_owner(batch_id)
    if work.redis.get(key) == work.member.encode():
        work.redis.delete(key)


def disown(work: ClaimedShard, changed: Shard) -> None:
    """Look for the shard's batch again: what it has is another's, or may be. Raises `Fenced`."""
    # Or whoever sees our own batch in the list takes it for nobody's, or for a twin.
    reopen(work)
    # Before the record: its owner may be a shard of ours that looks for it now.
    let_go(work, work.shard.batch_id)
    work.write(changed)


def owners_of(work: ClaimedShard, batches: Sequence[ListedBatch]) -> dict[str, Owner]:
    """Id → whose the batch is."""
    return {batch.id: owner_of(work, batch.id) for batch in batches}


def owner_of(work: ClaimedShard, batch_id: str) -> Owner:
    """Whose a batch is."""
    member = (work.redis.get(work.settings.keys.batch_owner(batch_id)) or b"").decode()
    if not member:
        return Owner.NOBODY
    if member == work.member:
        return Owner.OURS
    return held_by(_shard_of(work.redis, work.settings.keys, member), batch_id)


def _shard_of(connection: Connection, keys: Keys, member: str) -> Shard | None:
    job, _, number = member.partition("/")
    raw = connection.hget(keys.job(job).shards, number)
    return None if raw is None else Shard.parse(raw)


def _tag(fields: Mapping[bytes, bytes]) -> Tag:
    split = [(name.decode().partition(":"), value) for name, value in fields.items()]
    # The hash lives for as long as its size is in use.
    found = {
        member: map(int, value.split()) for (kind, _, member), value in split if kind == "lost"
    }
    lost = {member: since for member, (since, until) in found.items() if until > now_ms()}
    return Tag(open=any(kind == "open" for (kind, _, _), _ in split), abandoned=lost)
