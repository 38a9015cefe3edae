"""The scripts of limits that all workers share: each function returns one call of a script.

The contract of each script is at its beginning, in ``lua/``.
"""

from typing import Any, Literal, NamedTuple, TypeAlias

from penstock.keys import JobKeys, Keys
from penstock.store.scripts import ScriptCall, script


class RequestLimit(NamedTuple):
    """What the API's headers said of its limit on requests."""

    limit: int
    remaining: int
    full_in_ms: int  #: until the limit is full again


class SizeLockHolder(NamedTuple):
    """The create call that holds a size lock."""

    field: str  #: ``open:<job>/<shard>``
    nonce: str


CostReply: TypeAlias = Literal["ok", "wait", "over"]


def acquire_rate_limit(
    shared: Keys, lane: str, *, id: str, first_calls: int, lost_after_ms: int, max_wait_ms: int
) -> ScriptCall[int]:
    """Ask whether a request may be sent now. The result is 0, or the milliseconds to wait."""
    args = [id, first_calls, lost_after_ms, max_wait_ms]
    return ScriptCall(script("rate_limit_acquire"), _rate_limit_keys(shared, lane), args, int)


def report_rate_limit(
    shared: Keys,
    lane: str,
    *,
    id: str,
    refused: bool,
    closed_for_ms: int | None,
    limit: RequestLimit | None,
) -> ScriptCall[None]:
    """Record what the API answered to a request.

    ``closed_for_ms`` None: calls may be made. ``limit`` None: the API said nothing of its limit.
    """
    args = [
        id,
        "1" if refused else "",
        "" if closed_for_ms is None else closed_for_ms,
        *(limit or ("", "", "")),
    ]
    names = _rate_limit_keys(shared, lane)
    return ScriptCall(script("rate_limit_report"), names, args, _no_reply)


def acquire_active_batch(
    shared: Keys, *, member: str, requests: int, max_batches: int, max_requests: int, ttl_ms: int
) -> ScriptCall[bool]:
    """Count a shard's batch among the active ones. The result is false if it has to wait."""
    args = [member, requests, max_batches, max_requests, ttl_ms]
    return ScriptCall(script("active_batch_acquire"), [shared.active_batches], args, bool)


def reserve_cost(keys: JobKeys, *, shard: int, amount: int, ttl_s: int) -> ScriptCall[CostReply]:
    """Reserve millionths of a dollar for a shard, under the job's cost cap."""
    return ScriptCall(script("cost_reserve"), [keys.money], [shard, amount, ttl_s], _cost_reply)


def acquire_size_lock(
    shared: Keys,
    requests: int,
    *,
    member: str,
    nonce: str,
    ttl_s: int,
    stale: SizeLockHolder | None = None,
) -> ScriptCall[SizeLockHolder | None]:
    """Lock a size for one create call. The result is None, or the call that holds the lock.

    ``stale`` is a holder to remove first, if it is still the same.
    """
    args = [member, nonce, ttl_s, *(stale or ("", ""))]
    names = [shared.size_lock(requests)]
    return ScriptCall(script("size_lock_acquire"), names, args, _size_lock_reply)


def _rate_limit_keys(shared: Keys, lane: str) -> list[str]:
    return [
        shared.rate_limit(lane),
        shared.rate_limit_calls(lane),
        shared.rate_limit_turns(lane),
    ]


def _no_reply(_: Any) -> None:
    return None


def _cost_reply(reply: bytes) -> CostReply:
    return reply.decode()  # type: ignore[return-value]  # the script returns no other


def _size_lock_reply(reply: Any) -> SizeLockHolder | None:
    return SizeLockHolder(*(part.decode() for part in reply)) if reply else None
