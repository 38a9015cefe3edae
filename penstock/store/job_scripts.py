"""The scripts of batch jobs: each function returns one call of a script.

``keys`` are the keys of the job, ``shared`` those of the deployment. The contract of each script
is at its beginning, in ``lua/``.
"""

from collections.abc import Mapping
from typing import Any, Literal

from penstock.keys import JobKeys, Keys
from penstock.states import State
from penstock.store.request_scripts import state_reply
from penstock.store.scripts import Arg, ScriptCall, pairs, script


def submit(
    keys: JobKeys, *, ttl_s: int, first_event: bytes, fields: Mapping[str, Arg]
) -> ScriptCall[bool]:
    """Record a job. The result is false if the id is in use."""
    names = [keys.meta, keys.log, keys.events]
    return ScriptCall(script("submit"), names, [ttl_s, first_event, "", "", *pairs(fields)], bool)


def wake(
    keys: JobKeys,
    shared: Keys,
    *,
    action: Literal["cancel", "resume"],
    who: str,
    event: bytes = b"",
) -> ScriptCall[State | None]:
    """Cancel or resume a job. The result is the state found, None without a record.

    ``event`` (JSON) is logged if the call changes anything.
    """
    names = [keys.meta, keys.shards, keys.claims, shared.live_shards, keys.log, keys.events]
    return ScriptCall(script("job_wake"), names, [action, who, event], _wake_reply)


def withdraw(keys: JobKeys, shared: Keys) -> ScriptCall[bool]:
    """Remove a job that no worker has begun. The result is false if one has."""
    names = [keys.meta, keys.log, keys.shards, keys.claims, keys.money]
    names += [shared.live_shards, shared.jobs]
    return ScriptCall(script("job_withdraw"), names, [], bool)


def split(keys: JobKeys) -> ScriptCall[int]:
    """Count a shard that a split adds. The result is the new count, 0 without a record."""
    return ScriptCall(script("job_split"), [keys.meta], [], int)


def retry_reserve(keys: JobKeys, *, before: str, after: str) -> ScriptCall[str | None]:
    """Give the failed requests of an ended job to the retry ``after``, if ``before`` has them.

    An empty id: no job. The result is the job that has them then, None without a record.
    """
    return ScriptCall(script("retry_reserve"), [keys.meta], [before, after], _retry_reply)


def _retry_reply(reply: bytes | None) -> str | None:
    return None if reply is None else reply.decode()


def _wake_reply(reply: list[Any]) -> State | None:
    return state_reply(reply[0])
