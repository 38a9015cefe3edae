"""How many messages wait in a queue."""

from penstock.queue.names import PRIORITIES, queue_keys
from penstock.store.connection import Connection


def lengths_by_priority(connection: Connection, queue: str, key_prefix: str) -> dict[int, int]:
    """Return Celery's priority → number of messages of ``queue`` that wait with it.

    Raises redis-py's errors.
    """
    keys = queue_keys(queue, key_prefix)
    return {p: int(connection.llen(key)) for p, key in zip(PRIORITIES, keys, strict=True)}
