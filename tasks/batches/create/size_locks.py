"""Size locks: allow one open create call for each number of requests.

What identifies a batch in the API's list is only its size and its time. As long as no other call of
the same size is open, a new batch of that size belongs to this call.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from penstock.batches.shard import ShardState
from penstock.clock import now_ms
from penstock.keys import Keys
from penstock.store.connection import Connection
from penstock.store.limit_scripts import SizeLockHolder, acquire_size_lock
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.job_reader import find_shard

#: Seconds that a lock lives, and that an abandoned call is remembered.
_LOCK_TTL_S: Final = 26 * 3_600

#: Maximum milliseconds for which an open call keeps its size locked. If its outcome stays unknown,
#: as in a job that stays paused, other shards must continue. To adopt each other's batches costs
#: them time, not money.
_EXCLUSIVE_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class SizeLock:
    """The create calls of one size whose outcome is not known."""

    open: bool = False  #: whether one may still be under way
    #: ``<job>/<shard>`` of each abandoned call → time in ms of the newest batch before it
    abandoned: Mapping[str, int] = field(default_factory=dict)


def acquire(work: ClaimedShard, nonce: str) -> bool:
    """Lock the shard's size for its next call. False: a call of this size is open."""
    stale: SizeLockHolder | None = None
    for _ in range(2):
        other = acquire_size_lock(
            work.settings.keys,
            work.shard.requests,
            member=work.member,
            nonce=nonce,
            ttl_s=_LOCK_TTL_S,
            stale=stale,
        ).run(work.redis)
        if other is None:
            return True
        found = find_shard(work.redis, work.settings.keys, other.field.removeprefix("open:"))
        if found is not None and found.state in (ShardState.PLANNED, ShardState.SENDING):
            if not found.sent_ms or work.job.now_ms() - found.sent_ms < _EXCLUSIVE_MS:
                return False
            _open(work, nonce)
            return True
        stale = other  # its worker died before it could release the lock
    return False


def reopen(work: ClaimedShard) -> None:
    """Lock the size for the shard's last call again: the batch it had is not its own."""
    _open(work, work.shard.nonce)


def _open(work: ClaimedShard, nonce: str) -> None:
    key = work.settings.keys.size_lock(work.shard.requests)
    with work.redis.pipeline(transaction=True) as pipe:
        pipe.hset(key, f"open:{work.member}", nonce)
        pipe.expire(key, _LOCK_TTL_S)
        pipe.execute()


def release(work: ClaimedShard) -> None:
    """Release the shard's lock: it has no open call."""
    work.redis.hdel(work.settings.keys.size_lock(work.shard.requests), f"open:{work.member}")


def abandon(work: ClaimedShard) -> None:
    """Release the lock of an abandoned call, and note that its batch may still appear."""
    key = work.settings.keys.size_lock(work.shard.requests)
    with work.redis.pipeline(transaction=True) as pipe:
        pipe.hdel(key, f"open:{work.member}")
        until_ms = now_ms() + _LOCK_TTL_S * 1000
        pipe.hset(key, f"abandoned:{work.member}", f"{work.shard.watermark_ms} {until_ms}")
        pipe.expire(key, _LOCK_TTL_S)
        pipe.execute()


def locks_of(connection: Connection, keys: Keys, sizes: Iterable[int]) -> dict[int, SizeLock]:
    """Read the locks of some sizes, by size."""
    wanted = sorted(set(sizes))
    with connection.pipeline(transaction=False) as pipe:
        for size in wanted:
            pipe.hgetall(keys.size_lock(size))
        found = pipe.execute()
    return {size: _parse(fields) for size, fields in zip(wanted, found, strict=True)}


def _parse(fields: Mapping[bytes, bytes]) -> SizeLock:
    split = [
        (name.decode(errors="replace").partition(":"), value) for name, value in fields.items()
    ]
    # The hash lives as long as its size is in use, so each entry has an expiry of its own.
    lost = {}
    for (kind, _, member), value in split:
        with contextlib.suppress(ValueError):  # another program wrote it
            since, until = map(int, value.split())
            if kind == "abandoned" and until > now_ms():
                lost[member] = since
    return SizeLock(open=any(kind == "open" for (kind, _, _), _ in split), abandoned=lost)
