"""Requests to submit, and what a submission has stored in Redis."""

import threading
from collections.abc import Iterator
from typing import Any

import orjson

from penstock.batches.jobs import Job, JobRecords
from penstock.batches.shard import Shard
from penstock.queue.names import celery_prefix
from penstock.settings import ClientSettings
from penstock.spool import chunks

SETTINGS = ClientSettings.load(key_prefix="submission", batch_ttl_s=7_200)


def request(custom_id: str, text: str = "x", **params: Any) -> dict[str, Any]:
    """A request of a job."""
    message = {"role": "user", "content": text}
    model = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [message], **params}
    return {"custom_id": custom_id, "params": model}


def many(count: int, text: str = "x") -> Iterator[dict[str, Any]]:
    """Requests with the custom_ids ``id-0``, ``id-1`` …"""
    return (request(f"id-{number}", text) for number in range(count))


def wakeups_sent(connection: Any) -> int:
    """How many wake-ups are in the queue of batches."""
    return int(connection.llen(celery_prefix("submission") + "batches"))


def keys_of(connection: Any) -> list[bytes]:
    """All keys of jobs, and those that jobs share."""
    shared = [SETTINGS.keys.jobs, SETTINGS.keys.live_shards]
    found = [key.encode() for key in shared if connection.exists(key)]
    return [*found, *connection.scan_iter("submission:{*")]


def read(connection: Any, id: str) -> Job:
    """The job's record and its shards."""
    return JobRecords(connection, SETTINGS).read(id)


def stored(connection: Any, id: str, name: str, count: int) -> list[bytes]:
    """The lines of chunks."""
    store = chunks.RedisChunkStore(connection, SETTINGS.keys.job(id), 100)
    return [line for chunk in store.read(name, count) for line in chunks.lines_of(chunk)]


def contents(connection: Any, id: str, shard: Shard) -> tuple[list[Any], list[tuple[int, str]]]:
    """The params of a shard, and its positions and custom_ids."""
    lines = stored(connection, id, shard.request_chunk_name, shard.request_chunks)
    ids = stored(connection, id, shard.id_chunk_name, shard.id_chunks)
    pairs = (line.decode().split(" ") for line in ids)
    return [orjson.loads(line) for line in lines], [(int(at), name) for at, name in pairs]


def chunk_lists(connection: Any) -> list[bytes]:
    """The keys of all chunks."""
    return list(connection.scan_iter("submission:*:chunks:*"))


def wait_for_chunks(connection: Any) -> list[bytes]:
    """The keys of all chunks, once the background writer has stored some."""
    for _ in range(10_000):
        if found := chunk_lists(connection):
            return found
        threading.Event().wait(0.001)
    raise AssertionError("no chunk was stored")
