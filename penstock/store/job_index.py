"""The list of jobs: an index whose members outlive the records they name."""

from contextlib import suppress
from typing import Final

from redis.exceptions import NoPermissionError

from penstock.keys import Keys
from penstock.store.connection import Connection
from penstock.store.reaper_scripts import index_page

#: Jobs that one call of `prune` checks.
_CHECKED_AT_ONCE: Final = 1_000


def existing(connection: Connection, keys: Keys, ids: list[str]) -> list[str]:
    """Return those of ``ids`` that have a record, and remove the others from the list of jobs."""
    if not ids:
        return []
    with connection.pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.exists(keys.job(id).meta)
        alive = pipe.execute()
    gone = [id for id, exists in zip(ids, alive, strict=True) if not exists]
    if gone:
        with suppress(NoPermissionError):  # a user who only reads
            connection.zrem(keys.jobs, *gone)
    return [id for id, exists in zip(ids, alive, strict=True) if exists]


def prune(connection: Connection, keys: Keys, skip: int) -> int:
    """Remove the jobs without a record from a part of the list; returns where the next begins.

    ``skip``: members before that part. 0 begins again. Called by workers, so that the list does not
    grow if no client reads it.
    """
    page = index_page(keys.jobs, "id", limit=_CHECKED_AT_ONCE, skip=skip).run(connection)
    kept = existing(connection, keys, list(page.members))
    return skip + len(kept) if page.members else 0
