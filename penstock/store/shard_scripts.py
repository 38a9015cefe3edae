"""The scripts of a job's shards: each function returns one call of its script.

``keys`` are the keys of the job, ``shared`` those of the deployment, ``number`` is the shard's. The
contract of each script is at its beginning, in ``lua/``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from penstock.keys import JobKeys, Keys
from penstock.store.request_scripts import Invalid, ReaperAction, UnclaimedEnd, claim_fault
from penstock.store.scripts import ClaimRefused, Fenced, InGrace, ScriptCall, pairs, script


class ShardClaimed(NamedTuple):
    """The worker has the shard."""

    epoch: int
    record: bytes  #: of the shard, JSON
    cancel: str  #: who asked for the job to be canceled; empty if it is not
    paused: bytes  #: why the job is paused, JSON; empty if it is not


class ShardRenewed(NamedTuple):
    """The lease is renewed."""

    cancel: str  #: who asked for the job to be canceled; empty if it is not


class ShardWritten(NamedTuple):
    """The shard is written."""

    cancel: str  #: who asked for the job to be canceled; empty if it is not
    paused: bytes  #: why the job is paused, JSON; empty if it is not
    due_in_ms: int  #: until the shard is due; -1 if it is parked


class ReapedShard(NamedTuple):
    """What the reaper has to do for a shard."""

    action: ReaperAction
    record: bytes = b""  #: of the shard, JSON; only with ``WAKE``


ShardClaimReply: TypeAlias = ShardClaimed | ClaimRefused | InGrace | Invalid

#: What becomes of a claim with a write: keep it, give it up and park the shard until the job is
#: resumed, the same but check it once a day, give it up with nothing left to do, or give it up and
#: be due again after this many milliseconds.
Becomes: TypeAlias = Literal["hold", "park", "rest", "done"] | int


def claim(
    keys: JobKeys, shared: Keys, number: int, *, worker: str, lease_ms: int, early_ms: int
) -> ScriptCall[ShardClaimReply]:
    """Claim a shard. ``early_ms``: how long before its time a wake-up is still taken."""
    names = [keys.meta, keys.shards, keys.shard_lease(number), keys.claims]
    names += [shared.live_shards, shared.run, keys.log, keys.money]
    return ScriptCall(
        script("shard_claim"), names, [number, worker, lease_ms, early_ms], _claim_reply
    )


def renew(
    keys: JobKeys, shared: Keys, number: int, *, worker: str, epoch: int, lease_ms: int
) -> ScriptCall[ShardRenewed | Fenced]:
    """Renew the lease of a claimed shard."""
    names = [keys.meta, keys.shard_lease(number), keys.claims, shared.live_shards, keys.shards]
    return ScriptCall(script("shard_renew"), names, [number, worker, epoch, lease_ms], _renew_reply)


def write(
    keys: JobKeys,
    shared: Keys,
    number: int,
    *,
    worker: str,
    epoch: int,
    ttl_s: int,
    check_after_ms: int,
    becomes: Becomes = "hold",
    event: bytes = b"",
    final_state: str = "",
    pause: bytes = b"",
    left: int = 0,
    spent: int | Literal["all"] | None = None,
    saw_cancel: bool = False,
    claimed: Sequence[tuple[int, int]] = (),
    records: Sequence[tuple[int, bytes]] = (),
    fields: Mapping[str, Any] | None = None,
) -> ScriptCall[ShardWritten | Fenced]:
    """Write shards' records, an event (JSON) and fields of the job, if the claim still holds.

    ``left`` is added to the count of shards left. ``spent``, in millionths of a dollar, settles the
    shard's reservation (``all``: what was reserved; None: leave it). ``saw_cancel``: the step has
    taken account of the job's being canceled. ``claimed``: number and epoch of other shards that
    this worker has claimed; nothing is written if one of these claims is lost.
    """
    names = [keys.meta, keys.shards, keys.log, keys.shard_lease(number), keys.events, keys.claims]
    names += [shared.live_shards, keys.money]
    args = [
        *(number, worker, epoch, ttl_s, becomes, check_after_ms),
        *(event, final_state, pause, left),
        "" if spent is None else spent,
        1 if saw_cancel else "",
        " ".join(f"{other} {its_epoch}" for other, its_epoch in claimed),
        len(records),
        *pairs(records),
        *pairs(fields or {}),
    ]
    return ScriptCall(script("shard_write"), names, args, _write_reply)


def reap(
    keys: JobKeys, shared: Keys, number: int, *, check_after_ms: int, lease_ms: int
) -> ScriptCall[ReapedShard]:
    """Check a live shard whose time has come."""
    names = [keys.meta, keys.shards, keys.shard_lease(number), keys.claims]
    names += [shared.live_shards, shared.run]
    return ScriptCall(
        script("reaper/shard"), names, [number, check_after_ms, lease_ms], _reap_reply
    )


def fail_unreadable(
    keys: JobKeys, shared: Keys, number: int, *, end: UnclaimedEnd, retention_s: int
) -> ScriptCall[bool]:
    """Fail a job whose record cannot be read. The result is false if it has ended."""
    names = [keys.meta, keys.shard_lease(number), shared.live_shards, keys.log, keys.events]
    names += [keys.shards, keys.money]
    return ScriptCall(script("reaper/fail_unreadable"), names, [*end, retention_s, "hash"], bool)


def _claim_reply(reply: list[Any]) -> ShardClaimReply:
    kind = reply[0].decode()
    if kind == "claimed":
        _, epoch, record, cancel, paused = reply
        return ShardClaimed(epoch, record, cancel.decode(errors="replace"), paused)
    if kind == "invalid":
        return claim_fault(reply)
    return InGrace(reply[1]) if kind == "grace" else ClaimRefused(kind)


def _renew_reply(reply: list[Any]) -> ShardRenewed | Fenced:
    return ShardRenewed(reply[1].decode(errors="replace")) if reply[0] == b"ok" else Fenced()


def _write_reply(reply: list[Any]) -> ShardWritten | Fenced:
    if reply[0] != b"ok":
        return Fenced()
    _, cancel, paused, due_in_ms = reply
    return ShardWritten(cancel.decode(errors="replace"), paused, due_in_ms)


def _reap_reply(reply: list[bytes]) -> ReapedShard:
    action, *record = reply
    return ReapedShard(ReaperAction(action.decode()), *record)
