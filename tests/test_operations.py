"""The operations guide: its Redis users can do what they are for, and nothing else."""

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
    """The server's address for one of the guide's users."""
    return server.url.replace("//", f"//{user}:{user}-password@")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """A Redis with the guide's users."""
    (block,) = re.findall(r"```redis-acl\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    with EmbeddedRedis() as running:
        with redis.Redis.from_url(running.url) as connection:
            for line in block.splitlines():
                connection.execute_command(*shlex.split(line))
        yield running


@pytest.fixture(scope="module")
def workers(server: EmbeddedRedis, penstock_simulator: SimulatorProcess) -> Iterator[None]:
    """Both workers, as the user `worker`."""
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
    """A client that is the user `producer`."""
    with Client(url(server, "producer")) as client:
        yield client


@pytest.fixture
def reader(server: EmbeddedRedis) -> Iterator[Client]:
    """A client that is the user `reader`."""
    with Client(url(server, "reader")) as client:
        yield client


@pytest.fixture
def nothing_was_forbidden(server: EmbeddedRedis) -> Iterator[None]:
    """Redis has refused nobody anything during the test, workers included."""
    with redis.Redis.from_url(server.url) as connection:
        connection.acl_log_reset()
        yield
        assert connection.acl_log() == []


@pytest.mark.usefixtures("nothing_was_forbidden")
def test_a_producer_streams_and_a_reader_follows(producer: Client, reader: Client) -> None:
    """The worker's user carries the stream between them."""
    with producer.messages.stream(**BODY) as stream:
        text = "".join(stream.text_stream)
    with reader.messages.attach(stream.id) as followed:
        assert "".join(followed.text_stream) == text
    assert reader.messages.request(stream.id).text() == text


@pytest.mark.usefixtures("nothing_was_forbidden")
def test_a_producer_submits_a_job_and_a_reader_gets_the_results(
    producer: Client, reader: Client
) -> None:
    """All steps of the job run as the worker's user."""
    job = producer.messages.batches.create(requests=[{"custom_id": "one", "params": BODY}])
    for _ in reader.messages.batches.events(job.id, timeout=60):
        pass
    (result,) = reader.messages.batches.results(job.id)
    assert result.custom_id == "one"


def test_a_reader_cannot_enqueue_cancel_or_see_requests(producer: Client, reader: Client) -> None:
    """It spends no money and reads no prompt."""
    request = producer.messages.enqueue(**BODY)
    with pytest.raises(RedisUnavailable, match="evalsha"):
        reader.messages.enqueue(**BODY)
    with pytest.raises(RedisUnavailable, match="evalsha"):
        reader.messages.request(request.id).cancel()
    keys = reader.settings.keys.request(request.id)
    connection = connect(reader.settings)
    for command in (["GET", keys.request], ["LLEN", "streams"], ["PUBLISH", keys.events, "x"]):
        with pytest.raises(NoPermissionError):
            connection.execute_command(*command)
    connection.close()
    request.result(timeout=30)


@pytest.mark.parametrize("user", ["worker", "producer", "reader"])
def test_no_user_can_administer_redis(server: EmbeddedRedis, user: str) -> None:
    """Nor see keys that are not Penstock's."""
    connection = connect(ClientSettings.load(redis_url=url(server, user)))
    for command in ("FLUSHALL", "CONFIG SET maxmemory 1", "KEYS *", "SHUTDOWN", "GET other"):
        with pytest.raises(NoPermissionError):
            connection.execute_command(*command.split())
    connection.close()


def test_the_guide_names_only_settings_that_exist() -> None:
    """A renamed setting is renamed here too."""
    named = set(re.findall(r"PENSTOCK_[A-Z_]+[A-Z]", GUIDE.read_text(encoding="utf-8")))
    known = {variable_of(WorkerSettings, field) for field in WorkerSettings.model_fields}
    assert named - known == set()
