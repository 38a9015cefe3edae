"""The scripts of streamed requests: each function returns one call of its script.

``keys`` are the keys of the request, ``shared`` those of the deployment. The contract of
each script is at its beginning, in ``lua/``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

from penstock.keys import Keys, RequestKeys
from penstock.states import State
from penstock.store.scripts import (
    Arg,
    ClaimRefused,
    Fenced,
    InGrace,
    ScriptCall,
    pairs,
    script,
)


class Claimed(NamedTuple):
    """The worker has the request."""

    epoch: int
    n: int  #: number of the last event
    cancel: str  #: who asked for it to be canceled; empty if it is not
    worker_losses: int  #: claims that ended without a release


class Invalid(NamedTuple):
    """The record cannot be read, and nothing was written."""

    part: str  #: the key or field that cannot
    problem: str  #: what is wrong with it


class Renewed(NamedTuple):
    """The lease is renewed."""

    cancel: str  #: who asked for it to be canceled; empty if it is not
    n: int  #: number of the last event in the log; -1 if there is no record


class Written(NamedTuple):
    """The events are in the log, by this call or by an earlier one."""

    n: int  #: number of the last event in the log
    cancel: str  #: who asked for it to be canceled; empty if it is not


class Gap(NamedTuple):
    """The log ends before the first event of the call; nothing was written."""

    n: int  #: number of the last event in the log


@dataclass(frozen=True, slots=True)
class Gone:
    """The record has expired or was deleted."""


class UnclaimedEnd(NamedTuple):
    """How a request or a job ends that no worker holds, as JSON."""

    event: bytes  #: data of the last event
    error: bytes  #: of the record


class ReaperAction(StrEnum):
    """What the reaper has to do for a request or a shard."""

    WAKE = "wake"  #: send a wake-up
    WAIT = "wait"  #: nothing yet
    GONE = "gone"  #: nothing any more: it has ended or expired


ClaimReply: TypeAlias = Claimed | ClaimRefused | Invalid | InGrace
WriteReply: TypeAlias = Written | Gap | Fenced | Gone


def submit(
    keys: RequestKeys,
    shared: Keys,
    *,
    ttl_s: int,
    first_event: bytes,
    body: bytes,
    check_after_ms: int,
    fields: Mapping[str, Arg],
) -> ScriptCall[bool]:
    """Record a request. The result is false if the id is in use."""
    names = [keys.meta, keys.log, keys.events, keys.request, shared.live]
    args = [ttl_s, first_event, body, check_after_ms, *pairs(fields)]
    return ScriptCall(script("submit"), names, args, bool)


def claim(keys: RequestKeys, shared: Keys, *, worker: str, lease_ms: int) -> ScriptCall[ClaimReply]:
    """Claim a request for a worker."""
    names = [keys.meta, keys.lease, shared.live, shared.run, keys.log, keys.text]
    return ScriptCall(script("claim"), names, [worker, lease_ms], _claim_reply)


def renew(
    keys: RequestKeys, shared: Keys, *, worker: str, epoch: int, lease_ms: int, ttl_s: int
) -> ScriptCall[Renewed | Fenced]:
    """Renew the lease of a claimed request."""
    names = [keys.meta, keys.lease, keys.events, shared.live, keys.log, keys.text, keys.request]
    return ScriptCall(script("renew"), names, [worker, epoch, lease_ms, ttl_s], renew_reply)


def release(
    keys: RequestKeys,
    shared: Keys,
    *,
    worker: str,
    epoch: int,
    due_in_ms: int,
    check_after_ms: int,
    waits_for: str,
    ttl_s: int,
) -> ScriptCall[bool]:
    """Give a claimed request back to the queue. The result is false if the claim was lost.

    ``waits_for``: why its wake-up is due later; empty if it waits only for a worker.
    """
    names = [keys.meta, keys.lease, shared.live, keys.log, keys.text, keys.request]
    args = [worker, epoch, due_in_ms, check_after_ms, waits_for, ttl_s]
    return ScriptCall(script("release"), names, args, bool)


def cancel(
    keys: RequestKeys,
    shared: Keys,
    *,
    who: str,
    end_event: bytes,
    retention_s: int,
    only_waiting: bool = False,
) -> ScriptCall[State | None]:
    """Ask for a request to be canceled. The result is the state found, None without a record.

    ``end_event`` is the data of the last event (JSON) of a request that no worker holds.
    ``only_waiting`` leaves a request that a worker holds as it is; the result is then ``running``.
    """
    names = [keys.meta, keys.log, keys.events, shared.control, keys.lease, shared.live]
    names += [keys.text, keys.request]
    args = [who, end_event, retention_s, "1" if only_waiting else ""]
    return ScriptCall(script("cancel"), names, args, state_reply)


def write_keys(keys: RequestKeys, shared: Keys, *, typed: bool) -> list[str]:
    """The keys that `write` takes, so that a stream builds them once and not for every delta."""
    names = [keys.meta, keys.log, keys.lease, keys.events, keys.text, keys.request, shared.live]
    return [*names, keys.typed] if typed else names


def write(
    names: list[str],
    *,
    worker: str,
    epoch: int,
    first: int,
    events: Sequence[bytes],
    fields: Iterable[tuple[str, Any]] = (),
    text: str = "",
    empty_text: bool = False,
    final_state: str = "",
    ttl_s: int | None = None,
    log_limit: int = 0,
) -> ScriptCall[WriteReply]:
    """Append events to a request, from number ``first`` on. ``names`` come from `write_keys`.

    ``text`` is appended to the visible text, which ``empty_text`` empties first. ``ttl_s`` None
    leaves the lifetimes as they are; ``log_limit`` 0 keeps the whole log.
    """
    args: list[Any] = [
        worker,
        epoch,
        first,
        "" if ttl_s is None else ttl_s,
        text,
        "1" if empty_text else "",
        final_state,
        log_limit or "",
        len(events),
        *events,
    ]
    for pair in fields:
        args += pair
    return ScriptCall(script("write"), names, args, write_reply)


def write_reply(reply: list[Any]) -> WriteReply:
    """What the write script returned."""
    kind = reply[0]
    if kind == b"ok":
        return Written(reply[1], _name(reply[2]))
    if kind == b"gap":
        return Gap(reply[1])
    return Gone() if kind == b"gone" else Fenced()


def reap(
    keys: RequestKeys,
    shared: Keys,
    *,
    check_after_ms: int,
    may_be_queued: bool,
    deadline: UnclaimedEnd,
    deadline_after_loss: UnclaimedEnd,
    retention_s: int,
    lease_ms: int,
) -> ScriptCall[ReaperAction]:
    """Check a live request whose time has come. ``may_be_queued``: its message may be waiting.

    ``deadline`` is for a request that ends here, and ``deadline_after_loss`` for one of a lost
    worker, which may have called the API.
    """
    names = [keys.meta, keys.lease, shared.live, keys.log, keys.events, keys.text, keys.request]
    names.append(shared.run)
    args = [check_after_ms, int(may_be_queued), *deadline, *deadline_after_loss, retention_s]
    args.append(lease_ms)
    return ScriptCall(script("reaper/request"), names, args, _reap_reply)


def fail_unreadable(
    keys: RequestKeys, shared: Keys, *, end: UnclaimedEnd, retention_s: int
) -> ScriptCall[bool]:
    """Fail a request whose record cannot be read. The result is false if it has ended."""
    names = [keys.meta, keys.lease, shared.live, keys.log, keys.events, keys.text, keys.request]
    return ScriptCall(script("reaper/fail_unreadable"), names, [*end, retention_s, "string"], bool)


def state_reply(reply: bytes) -> State | None:
    """A state, or None where the script returned an empty string."""
    return State(reply.decode()) if reply else None


def _claim_reply(reply: list[Any]) -> ClaimReply:
    kind = reply[0].decode()
    if kind == "claimed":
        _, epoch, n, cancel, worker_losses = reply
        return Claimed(epoch, n, _name(cancel), worker_losses)
    if kind == "invalid":
        return claim_fault(reply)
    return InGrace(reply[1]) if kind == "grace" else ClaimRefused(kind)


def claim_fault(reply: list[Any]) -> Invalid:
    """What a claim script returned for a record that cannot be read."""
    return Invalid(_name(reply[1]), _name(reply[2]))


def renew_reply(reply: list[Any]) -> Renewed | Fenced:
    """What the renew script returned."""
    return Renewed(_name(reply[1]), reply[2]) if reply[0] == b"ok" else Fenced()


def _name(who: bytes) -> str:
    """Who asked to cancel: any program may have written it, in any encoding."""
    return who.decode(errors="replace")


def _reap_reply(reply: bytes) -> ReaperAction:
    return ReaperAction(reply.decode())
