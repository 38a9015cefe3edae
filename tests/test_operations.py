"""The Redis users of the operations guide have only the permissions they need."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from config.settings import WorkerSettings
from penstock.client import Client
from penstock.errors import RedisUnavailable
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import SIMULATOR_KEY, SimulatorProcess, WorkerProcess
from penstock.settings import ClientSettings, variable_of
from penstock.store.connection import connect

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}


def url(server: EmbeddedRedis, user: str) -> str:
    """Return the URL of the server for one of the guide's users."""
    return server.url.replace("//", f"//{user}:{user}-password@")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """A Redis server with the users of the guide."""
    (block,) = re.findall(r"```redis-acl\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    with EmbeddedRedis() as running:
        with redis.Redis.from_url(running.url) as connection:
            for line in block.splitlines():
                connection.execute_command(*shlex.split(line))
        yield running


@pytest.fixture(scope="module")
def workers(server: EmbeddedRedis, penstock_simulator: SimulatorProcess) -> Iterator[None]:
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
        yield
    finally:
        for worker in started:
            worker.stop()


@pytest.fixture
def producer(server: EmbeddedRedis, workers: None) -> Iterator[Client]:
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
    with redis.Redis.from_url(server.url) as connection:
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
    with redis.Redis.from_url(server.url) as connection:
        connection.zadd(reader.settings.keys.jobs, {"00000000-0000-7000-8000-000000000000": 1})
    assert "00000000" not in repr([job.id for job in reader.messages.batches.list()])


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


@pytest.mark.parametrize("user", ["worker", "producer", "reader"])
def test_no_user_can_administer_redis(server: EmbeddedRedis, user: str) -> None:
    """And no user can read keys outside of Penstock."""
    connection: Any = connect(ClientSettings.load(redis_url=url(server, user)))
    for command in ("FLUSHALL", "CONFIG SET maxmemory 1", "KEYS *", "SHUTDOWN", "GET other"):
        with pytest.raises(NoPermissionError):
            connection.execute_command(*command.split())
    connection.close()


def test_every_setting_in_the_guide_exists() -> None:
    """A renamed setting has to be renamed in the guide as well."""
    named = set(re.findall(r"PENSTOCK_[A-Z_]+[A-Z]", GUIDE.read_text(encoding="utf-8")))
    known = {variable_of(WorkerSettings, field) for field in WorkerSettings.model_fields}
    assert named - known == set()
