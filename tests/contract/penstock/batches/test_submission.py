"""Submission of batch jobs to a real Redis: what is kept, and what is not if anything fails."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import redis

from penstock.batches import submission
from penstock.batches.jobs import Job, JobRecords
from penstock.batches.options import SubmissionOptions
from penstock.batches.shard import Counts, Shard
from penstock.batches.submission import Submission
from penstock.batches.wire import BODY_HEAD, BODY_TAIL, LINE_HEAD, LINE_TAIL, PARAMS, wire_id
from penstock.client import Client
from penstock.errors import InvalidRequest, RedisUnavailable
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import python_path
from penstock.queue.names import celery_prefix
from penstock.settings import ClientSettings
from penstock.spool import chunks, writer
from penstock.states import State

SETTINGS = ClientSettings.load(key_prefix="submission", batch_ttl_s=7_200)


@pytest.fixture
def connection(penstock_redis: EmbeddedRedis) -> Iterator[Any]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield connection
        for key in connection.scan_iter("submission:*"):
            connection.delete(key)


@pytest.fixture
def client(penstock_redis: EmbeddedRedis, connection: Any) -> Iterator[Client]:
    with Client(penstock_redis.url, key_prefix="submission", batch_ttl_s=7_200) as client:
        yield client


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that a few requests fill several."""
    monkeypatch.setattr(submission, "CHUNK_BYTES", 300)


def request(custom_id: str, text: str = "x", **params: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    model = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [message], **params}
    return {"custom_id": custom_id, "params": model}


def many(count: int, text: str = "x") -> Iterator[dict[str, Any]]:
    return (request(f"id-{number}", text) for number in range(count))


def announced(connection: Any) -> int:
    """How many wake-ups have been sent."""
    return int(connection.llen(celery_prefix("submission") + "batches"))


def keys_of(connection: Any) -> list[bytes]:
    """All keys of jobs, and those that jobs share."""
    shared = [SETTINGS.keys.jobs, SETTINGS.keys.live_shards]
    found = [key.encode() for key in shared if connection.exists(key)]
    return [*found, *connection.scan_iter("submission:{*")]


def read(connection: Any, id: str) -> Job:
    return JobRecords(connection, SETTINGS).read(id)


def stored(connection: Any, id: str, name: str, count: int) -> list[bytes]:
    store = chunks.RedisChunkStore(connection, SETTINGS.keys.job(id), 100)
    return [line for chunk in store.read(name, count) for line in chunks.lines_of(chunk)]


def contents(connection: Any, id: str, shard: Shard) -> tuple[list[Any], list[tuple[int, str]]]:
    """The params of a shard, and its positions and custom_ids."""
    lines = stored(connection, id, f"requests-{shard.spool}", shard.request_chunks)
    ids = stored(connection, id, f"ids-{shard.spool}", shard.id_chunks)
    pairs = (line.decode().split(" ") for line in ids)
    return [orjson.loads(line) for line in lines], [(int(at), name) for at, name in pairs]


def test_every_request_is_stored_in_order_with_its_position(
    connection: Any, client: Client, small: None
) -> None:
    asked = list(many(100, "\u2028 \r\n\u0085"))
    job = client.messages.batches.create(requests=iter(asked), shard_requests=40)
    assert job.request_counts == Counts(processing=100)
    assert (job.state, job.model) == (State.QUEUED, "claude-haiku-4-5")
    found = [contents(connection, job.id, shard) for shard in job.shards]
    assert [params for held, _ in found for params in held] == [each["params"] for each in asked]
    assert [pair for _, pairs in found for pair in pairs] == [
        (number, f"id-{number}") for number in range(100)
    ]
    assert all(shard.request_chunks > 5 for shard in job.shards)
    assert sum(shard.requests for shard in job.shards) == 100
    assert [shard.number for shard in job.shards] == [0, 1, 2]
    assert all(shard.requests in (39, 40) for shard in job.shards[:2])
    assert announced(connection) == 3


def test_a_shard_whose_last_request_fills_all_its_chunks_has_no_empty_chunk(
    connection: Any, client: Client, small: None
) -> None:
    asked = [request(f"{number}-{'i' * 60}") for number in range(16)]
    job = client.messages.batches.create(requests=asked, shard_requests=8)
    for shard in job.shards:
        _, pairs = contents(connection, job.id, shard)
        assert [name for _, name in pairs] == [
            asked[position]["custom_id"] for position, _ in pairs
        ]
        assert (shard.requests, len(pairs), shard.id_chunks) == (8, 8, 1)


def test_a_shard_knows_the_size_of_its_body_and_what_it_weighs(
    connection: Any, client: Client
) -> None:
    asked = [request("a", "日"), request("b", model="claude-other", max_tokens=5), request("c")]
    job = client.messages.batches.create(requests=asked)
    (shard,) = job.shards
    lines = stored(connection, job.id, "requests-0", shard.request_chunks)
    pieces = [
        LINE_HEAD + wire_id("n" * 12, index).encode() + PARAMS + line + LINE_TAIL
        for index, line in enumerate(lines)
    ]
    body = BODY_HEAD + b",".join(pieces) + BODY_TAIL
    assert len(body) == shard.size
    assert [each["params"] for each in orjson.loads(body)["requests"]] == [
        each["params"] for each in asked
    ]
    assert (shard.first, shard.last, shard.requests) == (0, 2, 3)
    assert shard.size_by_model == {
        "claude-haiku-4-5": [len(lines[0]) + len(lines[2]), 18],
        "claude-other": [len(lines[1]), 5],
    }


def test_each_set_of_betas_has_shards_of_its_own(connection: Any, client: Client) -> None:
    asked = [
        request("a"),
        {**request("b"), "betas": ["one", "everywhere"]},
        request("c"),
        {**request("d"), "betas": ["two", "one"]},
        {**request("e"), "betas": ["one"]},
    ]
    job = client.messages.batches.create(
        requests=asked, betas=["everywhere"], extra_headers={"anthropic-version": "2023-06-01"}
    )
    placed = {shard.betas: contents(connection, job.id, shard)[1] for shard in job.shards}
    assert placed == {
        ("everywhere",): [(0, "a"), (2, "c")],
        ("everywhere", "one"): [(1, "b"), (4, "e")],
        ("everywhere", "one", "two"): [(3, "d")],
    }
    assert [(shard.first, shard.last) for shard in job.shards] == [(0, 2), (1, 4), (3, 3)]
    assert announced(connection) == 3
    headers = read(connection, job.id).record.json("headers")
    assert headers == {"anthropic-version": "2023-06-01"}


def test_many_sets_of_betas_take_no_more_memory_than_one(
    connection: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_MAX_OPEN_BYTES", 2_000)
    asked = [{**request(f"id-{i}", "x" * 99), "betas": [f"beta-{i % 20}"]} for i in range(200)]
    job = client.messages.batches.create(requests=asked)
    assert [shard.requests for shard in job.shards] == [10] * 20
    assert max(shard.request_chunks for shard in job.shards) > 1
    texts = [contents(connection, job.id, shard)[1] for shard in job.shards]
    assert texts[3] == [(i, f"id-{i}") for i in range(3, 200, 20)]


def test_a_canary_is_a_shard_of_its_own_and_the_only_one_that_is_announced(
    connection: Any, client: Client
) -> None:
    job = client.messages.batches.create(requests=many(30), canary=2, shard_requests=10)
    assert [shard.live for shard in job.shards] == [True, False, False, False]
    assert [shard.requests for shard in job.shards] == [2, 10, 10, 8]
    assert announced(connection) == 1
    assert read(connection, job.id).record.fields["waiting_for_canary"] == "canary"
    members = connection.zrange(SETTINGS.keys.live_shards, 0, -1)
    assert members == [f"{job.id}/{number}".encode() for number in range(4)]


def test_without_a_canary_nothing_is_held(connection: Any, client: Client) -> None:
    job = client.messages.batches.create(requests=many(3))
    assert "waiting_for_canary" not in read(connection, job.id).record.fields
    assert not connection.exists(SETTINGS.keys.job(job.id).money)


def test_a_cap_is_kept_in_millionths_of_a_dollar(connection: Any, client: Client) -> None:
    job = client.messages.batches.create(requests=many(1), max_cost_usd=0.57)
    assert connection.hgetall(SETTINGS.keys.job(job.id).money) == {b"cap": b"570000"}


def test_all_a_job_has_lives_as_long_as_its_record(connection: Any, client: Client) -> None:
    job = client.messages.batches.create(requests=many(5), max_cost_usd=1, canary=1)
    keys = [key for key in keys_of(connection) if job.id.encode() in key]
    assert len(keys) == 4 + 4  # meta, log, shards, money; chunks of two shards
    assert all(7_100 < connection.ttl(key) <= 7_200 for key in keys)


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
        (lambda: [*many(50), {}], {}, InvalidRequest, "^line 51: custom_id: a string"),
        (lambda: [*many(50), 5], {}, InvalidRequest, "^line 51: must be an object, not int"),
        (lambda: [*many(9), request("a", stream=True)], {}, InvalidRequest, "10: params.stream"),
        (lambda: [request("a", metadata=object())], {}, InvalidRequest, "1: params: cannot be"),
        (lambda: [{**request("a"), "betas": [1]}], {}, InvalidRequest, "line 1: betas: '1' is"),
        (list, {}, InvalidRequest, "^requests: at least one request is required"),
        (lambda: many(5), {"canary": 5}, InvalidRequest, r"^canary: .*number of requests \(5\)"),
        (
            lambda: [request("a"), {**request("b"), "betas": ["x"]}, request("c")],
            {"canary": 2},
            InvalidRequest,
            "^line 2: betas: must be those of line 1",
        ),
        (lambda: 5, {}, TypeError, "not iterable"),
        (lambda: many(1), {"canary": -1}, InvalidRequest, "^canary: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_job_that_cannot_be_read_to_its_end_leaves_nothing(
    connection: Any,
    client: Client,
    small: None,
    bad: Any,
    options: dict[str, Any],
    expected: type[Exception],
    words: str,
) -> None:
    with pytest.raises(expected, match=words):
        client.messages.batches.create(requests=bad(), shard_requests=20, **options)
    assert keys_of(connection) == []
    assert announced(connection) == 0


def spooling(connection: Any) -> list[bytes]:
    return list(connection.scan_iter("submission:*:chunks:*"))


def wait_for_chunks(connection: Any) -> list[bytes]:
    """The chunk lists, once the background thread has stored something."""
    for _ in range(10_000):
        if found := spooling(connection):
            return found
        threading.Event().wait(0.001)
    raise AssertionError("nothing was stored")


def test_what_a_producer_has_stored_expires_unless_it_goes_on(
    connection: Any, client: Client, small: None
) -> None:
    lifetimes: list[int] = []

    def watched() -> Iterator[Any]:
        yield from many(10)
        lifetimes.extend(connection.ttl(key) for key in wait_for_chunks(connection))

    client.messages.batches.create(requests=watched())
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


def test_a_producer_that_is_killed_leaves_no_job_and_nothing_for_ever(
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
    assert announced(connection) == 0
    assert all(0 < connection.ttl(key) <= submission.SPOOLING_TTL_S for key in found)


def test_a_producer_may_take_longer_than_its_chunks_live(
    connection: Any, client: Client, small: None, monkeypatch: pytest.MonkeyPatch
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

    job = client.messages.batches.create(requests=slow())
    assert job.request_counts.total == 11
    assert len(contents(connection, job.id, job.shards[0])[0]) == 11


@pytest.mark.parametrize("more", [0, 20])
def test_a_job_whose_chunks_expired_meanwhile_is_not_submitted(
    connection: Any, client: Client, small: None, more: int
) -> None:
    def suspended() -> Iterator[Any]:
        yield from many(20)
        for key in wait_for_chunks(connection):
            connection.delete(key)  # as its lifetime would
        yield from (request(f"late-{i}") for i in range(more))

    with pytest.raises(chunks.ChunkMissing):
        client.messages.batches.create(requests=suspended(), shard_requests=10)
    assert spooling(connection) == []
    assert announced(connection) == 0


def spooled(client: Client, connection: Any) -> Submission:
    new = Submission(new_id(), connection, SETTINGS, SubmissionOptions(shard_requests=1))
    new.spool(many(3))
    return new


def test_a_job_that_cannot_be_announced_is_taken_back(connection: Any, client: Client) -> None:
    new = spooled(client, connection)
    sent: list[int] = []

    def announce(shard: Shard) -> None:
        sent.append(shard.number)
        if len(sent) == 2:
            raise RedisUnavailable

    with pytest.raises(RedisUnavailable):
        new.enqueue(announce)
    assert sent == [0, 1]
    assert keys_of(connection) == []


def test_a_job_that_a_worker_has_begun_with_goes_on(connection: Any, client: Client) -> None:
    """Its first shard may be paid for already; the reaper announces the others."""
    new = spooled(client, connection)

    def announce(shard: Shard) -> None:
        if shard.number:
            raise RedisUnavailable
        connection.hset(new.keys.meta, "state", "running")  # as its claim does

    new.enqueue(announce)
    assert [shard.number for shard in read(connection, new.id).shards] == [0, 1, 2]
    assert connection.zcard(SETTINGS.keys.live_shards) == 3
    assert len(spooling(connection)) == 6


def test_a_full_redis_keeps_nothing(
    connection: Any, penstock_redis: EmbeddedRedis, client: Client, small: None
) -> None:
    def filling() -> Iterator[Any]:
        yield from many(20)
        connection.config_set("maxmemory", 1)
        yield from (request(f"late-{i}", "x" * 999) for i in range(10_000))

    try:
        with pytest.raises(RedisUnavailable, match="is full"):
            client.messages.batches.create(requests=filling())
    finally:
        connection.config_set("maxmemory", 0)
    assert keys_of(connection) == []


def test_a_redis_that_goes_away_is_reported_as_such(small: None) -> None:
    with EmbeddedRedis() as server, Client(server.url, redis_timeout_s=1) as client:

        def cut_off() -> Iterator[Any]:
            yield from many(20)
            server.stop()
            yield from (request(f"late-{i}", "x" * 999) for i in range(10_000))

        with pytest.raises(RedisUnavailable, match="cannot be reached"):
            client.messages.batches.create(requests=cut_off())


def test_objects_of_the_sdk_are_taken(connection: Any, client: Client) -> None:
    from anthropic.types import TextBlock

    answer = {"role": "assistant", "content": [TextBlock(type="text", text="hi")]}
    asked = request("a", messages=[{"role": "user", "content": "x"}, answer])
    job = client.messages.batches.create(requests=[asked])
    ((params,), _) = contents(connection, job.id, job.shards[0])
    assert params["messages"][1]["content"] == [{"type": "text", "text": "hi"}]
