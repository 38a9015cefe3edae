"""The scripts of the reaper and of the indexes that all records share.

Each function returns one call of its script. The contract of each script is at its beginning, in
``lua/``.
"""

from typing import Any, Final, Literal, NamedTuple

from penstock.keys import Keys
from penstock.store.scripts import ScriptCall, script


class Tick(NamedTuple):
    """What a worker's tick found."""

    is_reaper: bool  #: this worker holds the reaper's key
    removed: tuple[str, ...]  #: shared keys of another type, which were removed


class IndexPage(NamedTuple):
    """Some members of an index."""

    members: tuple[str, ...]
    removed: int  #: members that no worker can have written, and that were removed
    example: str  #: beginning of one of those


#: Shared key → its type, for the keys that every tick checks.
_TYPES: Final = {
    "live": "zset",
    "live_shards": "zset",
    "jobs": "zset",
    "spools": "zset",
    "active_batches": "hash",
    "history": "list",
}


def tick(shared: Keys, *, worker: str, lease_ms: int, refused: bool) -> ScriptCall[Tick]:
    """Report that a worker can write, and acquire the reaper's key if it is free.

    ``refused``: Redis has refused the tick since the last one that it did not refuse.
    """
    names = [shared.reaper, shared.run, *(getattr(shared, name) for name in _TYPES)]
    args = [worker, lease_ms, "1" if refused else "", *_TYPES.values()]
    return ScriptCall(script("reaper/tick"), names, args, _tick_reply)


def index_page(
    index: str, kind: Literal["id", "shard"], *, limit: int, skip: int = 0, only_due: bool = False
) -> ScriptCall[IndexPage]:
    """Read up to ``limit`` members of an index, after ``skip`` of them, in the order of scores.

    ``only_due``: those whose score, a time, has come. Members of another form are removed.
    """
    args = [kind, "1" if only_due else "", skip, limit]
    return ScriptCall(script("reaper/index_page"), [index], args, _page_reply)


def _tick_reply(reply: list[Any]) -> Tick:
    is_reaper, *removed = reply
    return Tick(bool(is_reaper), tuple(key.decode(errors="replace") for key in removed))


def _page_reply(reply: list[Any]) -> IndexPage:
    removed, example, *members = reply
    found = tuple(member.decode() for member in members)
    return IndexPage(found, removed, example.decode(errors="replace"))
