"""Submissions that fail: nothing stays stored, nothing is enqueued, and no wake-up is lost."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.batches import submission
from penstock.batches.options import SubmissionOptions
from penstock.batches.shard import Shard
from penstock.batches.submission import Submission
from penstock.client import Client
from penstock.errors import InvalidRequest, RedisUnavailable
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import python_path
from penstock.spool import chunks, writer
from tests.contract.penstock.batches.submitting import (
    SETTINGS,
    chunk_lists,
    contents,
    keys_of,
    many,
    read,
    request,
    wait_for_chunks,
    wakeups_sent,
)


class ProducerDied(Exception):
    pass


def dying(after: int) -> Iterator[Any]:
    yield from many(after, "x" * 100)
    raise ProducerDied


@pytest.mark.parametrize(
    ("bad", "options", "expected", "words"),
    [
        (lambda: dying(50), {}, ProducerDied, "^$"),
        (
            lambda: [*many(50), request("id-7")],
            {},
            InvalidRequest,
            "^line 51: custom_id: 'id-7' was already used in line 8$",
        ),
        (lambda: [*many(50), {}], {}, InvalidRequest, "^line 51: custom_id: is required"),
        (lambda: [*many(50), 5], {}, InvalidRequest, "^line 51: must be an object, not a number"),
        (lambda: [*many(9), request("a", stream=True)], {}, InvalidRequest, "10: params.stream"),
        (
            lambda: [request("a", metadata=object())],
            {},
            InvalidRequest,
            "1: params.metadata: cannot be",
        ),
        (
            lambda: [{**request("a"), "betas": [1]}],
            {},
            InvalidRequest,
            "line 1: betas: a number is",
        ),
        (list, {}, InvalidRequest, "^requests: at least one request is required"),
        (lambda: many(5), {"canary": 5}, InvalidRequest, r"^canary: .*number of requests \(5\)"),
        (
            lambda: [request("a"), {**request("b"), "betas": ["x"]}, request("c")],
            {"canary": 2},
            InvalidRequest,
            "^line 2: betas: must be those of the first request",
        ),
        (lambda: 5, {}, TypeError, "not iterable"),
        (lambda: many(1), {"canary": -1}, InvalidRequest, "^canary: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_requests_that_are_invalid_or_fail_leave_no_job_and_no_chunk(
    connection: Any,
    producer: Client,
    small_chunks: None,
    bad: Any,
    options: dict[str, Any],
    expected: type[Exception],
    words: str,
) -> None:
    with pytest.raises(expected, match=words):
        producer.messages.batches.create(requests=bad(), shard_requests=20, **options)
    assert keys_of(connection) == []
    assert wakeups_sent(connection) == 0


def test_chunks_expire_unless_their_producer_continues(
    connection: Any, producer: Client, small_chunks: None
) -> None:
    lifetimes: list[int] = []

    def watched() -> Iterator[Any]:
        yield from many(10)
        lifetimes.extend(connection.ttl(key) for key in wait_for_chunks(connection))

    producer.messages.batches.create(requests=watched())
    assert lifetimes
    assert all(3_500 < each <= submission.SPOOLING_TTL_S for each in lifetimes)


KILLED = """
import signal, sys
from penstock import Client

def requests():
    for number in range(3000):
        text = f"{number} " * 500
        yield {"custom_id": str(number), "params": {"model": "m", "max_tokens": 9, "messages": [
            {"role": "user", "content": text}]}}
    print("half-way", flush=True)
    signal.pause()

Client(sys.argv[1], key_prefix="submission").messages.batches.create(requests=requests())
"""


def test_a_producer_that_is_killed_leaves_no_job_and_chunks_that_expire(
    connection: Any, penstock_redis: EmbeddedRedis
) -> None:
    command = [sys.executable, "-c", KILLED, penstock_redis.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=python_path()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half-way\n"
        found = wait_for_chunks(connection)
        process.kill()
    assert connection.zcard(SETTINGS.keys.jobs) == 0
    assert connection.zcard(SETTINGS.keys.live_shards) == 0
    assert wakeups_sent(connection) == 0
    assert all(0 < connection.ttl(key) <= submission.SPOOLING_TTL_S for key in found)


def test_a_producer_may_take_longer_than_the_lifetime_of_its_chunks(
    connection: Any, producer: Client, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SPOOLING_TTL_S", 60)
    monkeypatch.setattr(writer, "_REFRESHES_PER_TTL", 600)

    def slow() -> Iterator[Any]:
        yield from many(10)
        (key, *_) = wait_for_chunks(connection)
        connection.expire(key, 10)
        for _ in range(10_000):
            if connection.ttl(key) > 50:
                break
            threading.Event().wait(0.001)
        yield request("last")

    job = producer.messages.batches.create(requests=slow())
    assert job.request_counts.total == 11
    assert len(contents(connection, job.id, job.shards[0])[0]) == 11


@pytest.mark.parametrize("more", [0, 20])
def test_a_job_whose_chunks_expired_is_not_submitted(
    connection: Any, producer: Client, small_chunks: None, more: int
) -> None:
    def suspended() -> Iterator[Any]:
        yield from many(20)
        for key in wait_for_chunks(connection):
            connection.delete(key)  # as if they had expired
        yield from (request(f"late-{i}") for i in range(more))

    with pytest.raises(chunks.ChunkMissing):
        producer.messages.batches.create(requests=suspended(), shard_requests=10)
    assert chunk_lists(connection) == []
    assert wakeups_sent(connection) == 0


def spooled(connection: Any) -> Submission:
    new = Submission(new_id(), connection, SETTINGS, SubmissionOptions(shard_requests=1))
    new.spool(many(3))
    return new


def test_a_job_whose_wakeups_cannot_be_sent_is_withdrawn(connection: Any, producer: Client) -> None:
    new = spooled(connection)
    sent: list[int] = []

    def announce(shard: Shard) -> None:
        sent.append(shard.number)
        if len(sent) == 2:
            raise RedisUnavailable

    with pytest.raises(RedisUnavailable):
        new.enqueue(announce)
    assert sent == [0, 1]
    assert keys_of(connection) == []


def test_a_job_that_a_worker_has_claimed_is_not_withdrawn(
    connection: Any, producer: Client
) -> None:
    """Its first shard may already be paid for; the reaper sends the other wake-ups."""
    new = spooled(connection)

    def announce(shard: Shard) -> None:
        if shard.number:
            raise RedisUnavailable
        connection.hset(new.keys.meta, "state", "running")  # as its claim does

    new.enqueue(announce)
    assert [shard.number for shard in read(connection, new.id).shards] == [0, 1, 2]
    assert connection.zcard(SETTINGS.keys.live_shards) == 3
    assert len(chunk_lists(connection)) == 6


def test_a_full_redis_leaves_no_job_and_no_chunk(
    connection: Any, penstock_redis: EmbeddedRedis, producer: Client, small_chunks: None
) -> None:
    def filling() -> Iterator[Any]:
        yield from many(20)
        connection.config_set("maxmemory", 1)
        yield from (request(f"late-{i}", "x" * 999) for i in range(10_000))

    try:
        with pytest.raises(RedisUnavailable, match="is full"):
            producer.messages.batches.create(requests=filling())
    finally:
        connection.config_set("maxmemory", 0)
    assert keys_of(connection) == []


def test_a_redis_that_becomes_unavailable_is_reported_as_that(small_chunks: None) -> None:
    with EmbeddedRedis() as server, Client(server.url, redis_timeout_s=1) as producer:

        def cut_off() -> Iterator[Any]:
            yield from many(20)
            server.stop()
            yield from (request(f"late-{i}", "x" * 999) for i in range(10_000))

        with pytest.raises(RedisUnavailable, match="cannot be reached"):
            producer.messages.batches.create(requests=cut_off())
