"""The names of Celery tasks and queues, on which producers and workers agree.

They are not derived from modules, so that a file can move while messages are queued.
"""

from typing import Final

#: The task of one live stream. Argument: the request id, which is also the Celery task id.
STREAM: Final = "penstock.stream"

#: The tasks of one shard, in the order in which they run. Arguments: job id, shard number.
BATCH_CREATE: Final = "penstock.batch.create"
BATCH_POLL: Final = "penstock.batch.poll"
BATCH_COLLECT: Final = "penstock.batch.collect"
BATCH_FINISH: Final = "penstock.batch.finish"
BATCH_STEPS: Final = (BATCH_CREATE, BATCH_POLL, BATCH_COLLECT, BATCH_FINISH)

#: The queues. Streams and batches have separate workers, so that a hundred long streams never delay
#: a batch step, and batch steps never delay a stream.
STREAMS_QUEUE: Final = "streams"
BATCHES_QUEUE: Final = "batches"
QUEUES: Final = (STREAMS_QUEUE, BATCHES_QUEUE)


def queue_of(task: str) -> str:
    """The queue that the task named ``task`` is sent to."""
    return STREAMS_QUEUE if task == STREAM else BATCHES_QUEUE


#: Celery's priorities on Redis, from first to last.
PRIORITIES: Final = (0, 3, 6, 9)


def queue_keys(queue: str, key_prefix: str) -> list[str]:
    """The Redis lists of a queue, one for each priority, from first to last.

    The names are kombu's (``kombu.transport.redis``: ``priority_steps``, ``sep`` and
    ``global_keyprefix``).
    """
    name = celery_prefix(key_prefix) + queue
    return [name, *(f"{name}\x06\x16{step}" for step in PRIORITIES[1:])]


def celery_prefix(key_prefix: str) -> str:
    """The prefix of Celery's own keys; empty for the default key prefix.

    So the names in ``redis-cli`` are short. Deployments that share a Redis need different prefixes:
    otherwise they would take each other's messages.
    """
    return "" if key_prefix == "penstock" else f"{key_prefix}:"
