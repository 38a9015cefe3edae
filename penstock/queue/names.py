"""The wire names that producers and workers agree on: Celery tasks and queues.

They are spelled out, not derived from modules, so that files can move without stranding
messages that are already queued.
"""

from typing import Final

#: One live stream. Argument: the request id, which is also the Celery task id.
STREAM: Final = "penstock.stream"

#: The steps of one batch shard, in the order in which they run. Arguments: job id, shard number.
BATCH_CREATE: Final = "penstock.batch.create"
BATCH_POLL: Final = "penstock.batch.poll"
BATCH_COLLECT: Final = "penstock.batch.collect"
BATCH_FINISH: Final = "penstock.batch.finish"
BATCH_STEPS: Final = (BATCH_CREATE, BATCH_POLL, BATCH_COLLECT, BATCH_FINISH)

#: The queues. Streams and batches have workers of their own, so that a hundred long streams
#: never stand in front of a batch step, and the other way round.
STREAMS_QUEUE: Final = "streams"
BATCHES_QUEUE: Final = "batches"
QUEUES: Final = (STREAMS_QUEUE, BATCHES_QUEUE)


def queue_of(task: str) -> str:
    """The queue that the task named ``task`` is sent to."""
    return STREAMS_QUEUE if task == STREAM else BATCHES_QUEUE


def queue_keys(queue: str, key_prefix: str) -> list[str]:
    """The Redis lists that a queue consists of, one for each step of priority, first to last.

    The names are kombu's (``kombu.transport.redis``: ``priority_steps``, ``sep`` and
    ``global_keyprefix``).
    """
    name = celery_prefix(key_prefix) + queue
    return [name, *(f"{name}\x06\x16{step}" for step in (3, 6, 9))]


def celery_prefix(key_prefix: str) -> str:
    """What stands before the names of Celery's own keys. Under the default prefix nothing does,
    so that ``redis-cli LLEN streams`` works; deployments that share a Redis need it, or they
    would take each other's messages."""
    return "" if key_prefix == "penstock" else f"{key_prefix}:"
