"""Reads several keys of a record at one moment, also while Redis is full.

Every event changes the record, in the same script as the log and the text. So the record is read
before and after the other keys: if both replies are equal, all are of one moment. ``MULTI`` would
ensure that, too, but a full Redis refuses even to read in it; and a script that returns a page of
the log costs Redis five to eight times the CPU of the commands themselves.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import redis.exceptions

from penstock.store.redis_protocol import AsyncConnection, Connection, QueuedCommands

#: The fields of the record that are read: one of them changes with every event.
FIELDS: Final = ("state", "n", "base", "epoch")

#: Maximum reads in a row that a write may spoil. Even one is rare: Redis runs the commands that
#: arrive together without others between them, unless a proxy separates them.
MAX_SPOILED_READS: Final = 10

#: Adds the commands that read the other keys to a pipeline.
Queue: TypeAlias = Callable[[QueuedCommands], None]


def read_snapshot(connection: Connection, meta: str, queue: Queue) -> list[Any]:
    """Return the `FIELDS` of the record ``meta``, and the replies to what ``queue`` adds.

    Raises `redis.RedisError`.
    """
    with connection.pipeline(transaction=False) as pipe:
        for _ in range(MAX_SPOILED_READS):
            _queue_all(pipe, meta, queue)
            found = _unspoiled(pipe.execute(raise_on_error=False))
            if found is not None:
                return found
    raise _spoiled(meta)


async def read_snapshot_async(connection: AsyncConnection, meta: str, queue: Queue) -> list[Any]:
    """Like `read_snapshot`, on an event loop."""
    task = asyncio.current_task()
    canceled = task.cancelling() if task else 0
    async with connection.pipeline(transaction=False) as pipe:
        for _ in range(MAX_SPOILED_READS):
            _queue_all(pipe, meta, queue)
            found = _unspoiled(await pipe.execute(raise_on_error=False))
            if task and task.cancelling() > canceled:
                # The driver sends inside `asyncio.wait_for`, which can lose a cancellation in
                # Python 3.11.
                raise asyncio.CancelledError
            if found is not None:
                return found
    raise _spoiled(meta)


def _queue_all(pipe: QueuedCommands, meta: str, queue: Queue) -> None:
    pipe.hmget(meta, *FIELDS)
    queue(pipe)
    pipe.hmget(meta, *FIELDS)


def _unspoiled(replies: list[Any]) -> list[Any] | None:
    """The replies; None if the record changed between them. Raises the first error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    before, *others, after = replies
    return [before, *others] if before == after else None


def _spoiled(meta: str) -> redis.exceptions.RedisError:
    return redis.exceptions.ConnectionError(
        f"{meta} changed during each of {MAX_SPOILED_READS} reads"
    )
