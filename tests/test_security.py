"""The Redis users of the security guide have only the permissions they need."""

import base64
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from penstock.client import Client
from penstock.errors import RedisUnavailable
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import SIMULATOR_KEY, SimulatorProcess, WorkerProcess
from penstock.settings import ClientSettings
from penstock.store.connection import connect
from penstock.store.scripts import OF_PRODUCERS, script
from penstock.testing import wait_until

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "security.md"
BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}


def url(server: EmbeddedRedis, user: str) -> str:
    """Return the URL of the server for one of the guide's users."""
    return f"redis://{user}:{user}-password@127.0.0.1:{server.port}/0"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """A Redis server with the users of the guide."""
    (block,) = re.findall(r"```redis-acl\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    with EmbeddedRedis() as running:
        with redis.Redis.from_url(running.url) as connection:
            # The guide switches off the user with which the server has started.
            connection.acl_setuser(
                "admin",
                True,
                passwords=["+admin-password"],
                keys="*",
                channels="*",
                categories=["+@all"],
            )
            for line in block.splitlines():
                connection.execute_command(*shlex.split(line))
        yield running


@pytest.fixture(scope="module")
def workers(
    server: EmbeddedRedis, penstock_simulator: SimulatorProcess
) -> Iterator[list[WorkerProcess]]:
    """Both workers, connected as the user `worker`."""
    env = {
        "PENSTOCK_REDIS_URL": url(server, "worker"),
        "ANTHROPIC_API_KEY": SIMULATOR_KEY,
        "ANTHROPIC_BASE_URL": penstock_simulator.url,
        "PENSTOCK_POLL_INTERVAL_MIN_S": "0.2",
        "C_FORCE_ROOT": "1",
    }
    started = [WorkerProcess(queue, env=env) for queue in ("streams", "batches")]
    try:
        for worker in started:
            worker.launch()
        for worker in started:
            worker.wait_until_ready()
        with redis.Redis.from_url(url(server, "admin")) as connection:
            hashes = [script(name).sha for name in OF_PRODUCERS]
            wait_until(lambda: all(connection.script_exists(*hashes)))
        yield started
    finally:
        for worker in started:
            worker.stop()


@pytest.fixture
def producer(server: EmbeddedRedis, workers: list[WorkerProcess]) -> Iterator[Client]:
    """A client connected as the user `producer`."""
    with Client(url(server, "producer")) as client:
        yield client


@pytest.fixture
def reader(server: EmbeddedRedis) -> Iterator[Client]:
    """A client connected as the user `reader`."""
    with Client(url(server, "reader")) as client:
        yield client


@pytest.fixture
def no_command_was_denied(server: EmbeddedRedis) -> Iterator[None]:
    """Check that Redis has denied no command during the test, including workers'."""
    with redis.Redis.from_url(url(server, "admin")) as connection:
        connection.acl_log_reset()
        yield
        assert connection.acl_log() == []


@pytest.mark.usefixtures("no_command_was_denied")
def test_a_producer_streams_and_a_reader_follows(producer: Client, reader: Client) -> None:
    """The worker that runs the stream is connected as its own user."""
    with producer.messages.stream(**BODY) as stream:
        text = "".join(stream.text_stream)
    with reader.messages.attach(stream.id) as followed:
        assert "".join(followed.text_stream) == text
    assert reader.messages.request(stream.id).text() == text


@pytest.mark.usefixtures("no_command_was_denied")
def test_a_producer_submits_a_job_and_a_reader_reads_the_results(
    producer: Client, reader: Client
) -> None:
    """All steps of the job run as the user `worker`."""
    job = producer.messages.batches.create(requests=[{"custom_id": "one", "params": BODY}])
    for _ in reader.messages.batches.events(job.id, timeout=60):
        pass
    (result,) = reader.messages.batches.results(job.id)
    assert result.custom_id == "one"
    assert job.id in [each.id for each in reader.messages.batches.list()]


def test_a_reader_lists_jobs_although_it_cannot_remove_expired_ones(
    server: EmbeddedRedis, producer: Client, reader: Client
) -> None:
    """The list of ids contains jobs whose records have expired."""
    with redis.Redis.from_url(url(server, "admin")) as connection:
        connection.zadd(reader.settings.keys.jobs, {"00000000-0000-7000-8000-000000000000": 1})
    assert "00000000" not in repr([job.id for job in reader.messages.batches.list()])


@pytest.mark.usefixtures("no_command_was_denied")
def test_a_producer_cancels_resumes_retries_and_deletes(producer: Client) -> None:
    """Everything that the client can do for requests and jobs."""
    batches = producer.messages.batches
    request = producer.messages.enqueue(**{**BODY, "max_tokens": 90})
    producer.messages.request(request.id).cancel()
    failing = {"role": "user", "content": "[[sim errored=invalid_request_error first=1]]"}
    params = {**BODY, "messages": [failing]}
    job = batches.create(requests=[{"custom_id": "one", "params": params}], max_cost_usd=1)
    batches.resume(job.id, max_cost_usd=2)
    for _ in batches.events(job.id, timeout=60):
        pass
    retry = batches.retry_failed(job.id)
    batches.cancel(retry.id)
    for _ in batches.events(retry.id, timeout=60):
        pass
    batches.delete(job.id)
    assert retry.id in [each.id for each in batches.list()]


def test_a_reader_cannot_enqueue_cancel_or_read_requests(producer: Client, reader: Client) -> None:
    """A reader can neither spend money nor read prompts."""
    request = producer.messages.enqueue(**BODY)
    with pytest.raises(RedisUnavailable, match="evalsha"):
        reader.messages.enqueue(**BODY)
    with pytest.raises(RedisUnavailable, match="evalsha"):
        reader.messages.request(request.id).cancel()
    keys = reader.settings.keys.request(request.id)
    connection: Any = connect(reader.settings)
    for command in (["GET", keys.request], ["LLEN", "streams"], ["PUBLISH", keys.events, "x"]):
        with pytest.raises(NoPermissionError):
            connection.execute_command(*command)
    connection.close()
    request.result(timeout=30)


@pytest.mark.parametrize("user", ["worker", "operator", "producer", "reader"])
def test_no_user_can_administer_redis(server: EmbeddedRedis, user: str) -> None:
    """And no user can read keys outside of Penstock."""
    connection: Any = connect(ClientSettings.load(redis_url=url(server, user)))
    for command in ("FLUSHALL", "CONFIG SET maxmemory 1", "KEYS *", "SHUTDOWN", "GET other"):
        with pytest.raises(NoPermissionError):
            connection.execute_command(*command.split())
    connection.close()


#: What a producer could do harm with: to workers, to other programs, or to Redis.
DENIED = (
    "EVAL 'while true do end' 0",
    "SCRIPT LOAD 'return 1'",
    "SCRIPT FLUSH",
    "FUNCTION LOAD '#!lua name=x'",
    "SET penstock:reaper other",
    "HSET penstock:run since_ms 99999999999999",
    "HSET penstock:active-batches a 1",
    "SET penstock:batch-owner:msgbatch_1 x",
    "DEL penstock:live",
    "SET penstock:live x",
    "HSET penstock:live-shards a b",
    "DEL streams",
    "BRPOP streams 1",
    "LRANGE streams 0 -1",
    "RPUSH batches x",
    "SET batches x",
    "LPUSH unacked x",
    "LPUSH other x",
    "HGETALL unacked",
    "SADD _kombu.binding.streams x",
    "ZRANGE penstock:spools 0 -1",
    "DEL penstock:spools",
    "PUBLISH /0.celery.pidbox x",
    "PUBLISH /0.celeryev/worker.online x",
    "LPUSH celery@host.celery.pidbox x",
    "SUBSCRIBE /0.celeryev/task.received",
    "PSUBSCRIBE *",
    "MONITOR",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "CLIENT PAUSE 100000",
    "ACL LIST",
    "INFO",
    "CONFIG GET requirepass",
    "MODULE LIST",
    "REPLICAOF 127.0.0.1 1",
    "SCAN 0",
    "SORT penstock:jobs",
    "KEYS *",
)


@pytest.mark.parametrize("command", DENIED)
def test_a_producer_is_denied_what_could_harm_others(server: EmbeddedRedis, command: str) -> None:
    connection: Any = connect(ClientSettings.load(redis_url=url(server, "producer")))
    with pytest.raises(NoPermissionError):
        connection.execute_command(*shlex.split(command))
    connection.close()


def test_no_message_of_a_producer_ends_a_worker_or_is_written_elsewhere(
    server: EmbeddedRedis, workers: list[WorkerProcess], producer: Client, tmp_path: Path
) -> None:
    """A message that names a list to write to, a task, a file, or is not one."""
    victim = tmp_path / new_id() / "file"
    victim.parent.mkdir()
    victim.write_text("precious")
    connection: Any = connect(producer.settings)
    for queue in ("streams", "batches"):
        for message in hostile_messages(queue):
            connection.lpush(queue, message)
    connection.zadd(producer.settings.keys.spools, {f"{victim.parent.name} file://{tmp_path}": 1})
    connection.close()
    request = producer.messages.enqueue(**BODY)
    assert request.result(timeout=30).content
    job = producer.messages.batches.create(requests=[{"custom_id": "one", "params": BODY}])
    for _ in producer.messages.batches.events(job.id, timeout=60):
        pass
    assert all(worker.alive for worker in workers)
    assert "dropped" in workers[0].log.read_text()
    assert victim.read_text() == "precious"
    with redis.Redis.from_url(url(server, "admin")) as admin:
        assert admin.type("penstock:reaper") == b"string"
        assert admin.exists("elsewhere", "celery") == 0
        assert (admin.hlen("unacked"), admin.llen("streams"), admin.llen("batches")) == (0, 0, 0)


def hostile_messages(queue: str) -> Iterator[bytes]:
    """Yield messages that Celery, or kombu, would act upon or fail at."""
    yield from (b"", b"garbage", b"\xff\xfe", b"{}", b"[]", b"null", b"1", b"[" * 100_000)
    task = "penstock.stream" if queue == "streams" else "penstock.batch.create"
    args = [new_id()] if queue == "streams" else [new_id(), 0]
    elsewhere = {
        "task": task,
        "args": args,
        "options": {"exchange": "", "routing_key": "elsewhere"},
    }
    lists: dict[str, Any] = {name: [elsewhere] for name in ("callbacks", "errbacks", "chain")}
    for embed in ({}, lists, {"chord": elsewhere}, {"chain": "x"}, {"chain": [1]}):
        yield celery_message(task, args, embed)
    for name in (
        "celery.map",
        "celery.group",
        "celery.chord_unlock",
        "os.system",
        "",
        None,
        [task],
    ):
        yield celery_message(name, [elsewhere, [1]], {})
    reaper = {"exchange": "", "routing_key": "penstock:reaper"}
    for headers in (
        {"eta": "9999-12-31T23:59:59"},
        {"eta": "2000-01-01T00:00:00"},
        {"eta": 5},
        {"expires": "x"},
        {"retries": "many"},
        {"timelimit": [1, 1]},
        {"id": "../../etc"},
        {"id": None},
        {"argsrepr": ["x"], "kwargsrepr": "x" * 10_000, "origin": 5, "shadow": "other"},
        {"compression": "application/x-gzip"},
        {"group": "x", "root_id": {}, "parent_id": 1},
    ):
        yield celery_message(task, args, {}, headers)
    yield celery_message(task, args, {}, delivery_info=reaper, delivery_tag="x")
    yield celery_message(task, args, {}, delivery_info=None, priority="x", body_encoding=7)
    yield celery_message(task, args, {}, body_encoding="base64")
    yield celery_message(task, args, {}).replace(
        b"application/json", b"application/x-python-serialize"
    )
    yield celery_message(task, args, {}).replace(b"utf-8", b"no-such-encoding")


def celery_message(
    task: Any, args: Any, embed: Any, headers: Any = None, **properties: Any
) -> bytes:
    """Return a message as kombu writes it to Redis."""
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps([args, {}, embed]).encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"lang": "py", "task": task, "id": new_id(), "eta": None, **(headers or {})},
            "properties": {
                "body_encoding": "base64",
                "delivery_tag": new_id(),
                "delivery_info": {"exchange": "", "routing_key": "elsewhere"},
                **properties,
            },
        }
    ).encode()
