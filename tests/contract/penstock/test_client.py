"""The producer: what is enqueued, what is not, and what other clients see of it."""

import base64
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from penstock.batches import submission
from penstock.batches.submission import Submission
from penstock.client import Client
from penstock.errors import ConfigurationError, InvalidRequest, RedisUnavailable
from penstock.ids import is_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import free_port
from penstock.queue.names import queue_keys
from penstock.queue.wakeups import WakeUps
from penstock.settings import ClientSettings
from penstock.states import State
from tests.connections import redis_of

PROMPT = "xyzzy the secret prompt"
BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": PROMPT}],
}


@pytest.fixture
def url(penstock_redis: EmbeddedRedis) -> str:
    """A database of its own, because workers of other tests use the queues of the first."""
    return penstock_redis.url.removesuffix("/0") + "/5"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A client of an empty database."""
    with Client(url) as client:
        redis_of(client).flushdb()
        yield client
        left = [k.decode() for k in redis_of(client).scan_iter() if redis_of(client).ttl(k) == -1]
        names = {key.rpartition(":")[2] for key in left if "_kombu.binding" not in key}
        assert names <= {"streams", "streams\x06\x163", "batches", "jobs", "live", "live-shards"}
        redis_of(client).flushdb()


def keys_of(client: Client) -> list[bytes]:
    return sorted(redis_of(client).scan_iter())


def queued(client: Client, queue: str) -> list[dict[str, Any]]:
    lists = queue_keys(queue, client.settings.key_prefix)
    return [orjson.loads(raw) for name in lists for raw in redis_of(client).lrange(name, 0, -1)]


def request(custom_id: str, **params: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "params": {**BODY, **params}}


def test_an_enqueued_request_is_recorded_and_has_a_wake_up(client: Client) -> None:
    handle = client.messages.enqueue(**BODY, typed=True)
    assert is_id(handle.id)
    record = handle.record()
    assert (record.state, record.n, record.fields["typed"]) == (State.QUEUED, 1, "1")
    stored = redis_of(client).get(client.settings.keys.request(handle.id).request)
    assert orjson.loads(stored) == BODY
    assert len(queued(client, "streams")) == 1
    assert redis_of(client).zscore(client.settings.keys.live, handle.id) is not None


def test_a_message_contains_the_id_and_nothing_else_of_the_request(client: Client) -> None:
    handle = client.messages.enqueue(**BODY, metadata={"user_id": PROMPT})
    (message,) = queued(client, "streams")
    args, kwargs, _ = orjson.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([handle.id], {})
    headers = message["headers"]
    assert headers["task"] == "penstock.stream"
    assert headers["id"] == handle.id
    assert headers["argsrepr"] == f"('{handle.id}',)"
    assert headers["kwargsrepr"] == "{'kind': 'stream', 'model': 'claude-haiku-4-5'}"
    assert message["content-type"] == "application/json"
    assert PROMPT not in orjson.dumps(message).decode()


def test_a_prompt_is_stored_in_one_key_only(client: Client) -> None:
    handle = client.messages.enqueue(**BODY)
    holding = [
        key.decode().rpartition(":")[2]
        for key in keys_of(client)
        if PROMPT.encode() in redis_of(client).dump(key)
        or PROMPT.encode() in repr(everything(client, key)).encode()
    ]
    assert holding == ["request"]
    assert PROMPT not in repr(handle)


def everything(client: Client, key: bytes) -> Any:
    kind = redis_of(client).type(key)
    read = {
        b"string": lambda: redis_of(client).get(key),
        b"hash": lambda: redis_of(client).hgetall(key),
        b"stream": lambda: redis_of(client).xrange(key),
        b"list": lambda: redis_of(client).lrange(key, 0, -1),
        b"set": lambda: redis_of(client).smembers(key),
        b"zset": lambda: redis_of(client).zrange(key, 0, -1),
    }
    return read[kind]()


def test_the_sdks_stream_flag_is_not_sent_to_the_api(client: Client) -> None:
    handle = client.messages.enqueue(**BODY, stream=True)
    stored = redis_of(client).get(client.settings.keys.request(handle.id).request)
    assert orjson.loads(stored) == BODY


@pytest.mark.parametrize("call", ["enqueue", "stream"])
@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "x", "content": PROMPT}]}, "messages.0.role"),
        ({"metadata": {"x": object()}}, "metadata.x"),
    ],
)
def test_a_malformed_request_leaves_no_trace(
    client: Client, call: str, bad: dict[str, Any], field: str | None
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        getattr(client.messages, call)(**{**BODY, **bad})
    assert caught.value.field == field
    assert PROMPT not in str(caught.value)
    assert keys_of(client) == []


def test_an_empty_request_is_malformed(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="model: is required"):
        client.messages.enqueue()


def test_a_job_is_spooled_and_recorded_and_has_wake_ups(client: Client) -> None:
    batch = client.messages.batches.create(requests=(request(f"id-{i}") for i in range(3)))
    assert is_id(batch.id)
    assert (batch.state, batch.processing_status) == (State.QUEUED, "in_progress")
    assert batch.request_counts.processing == 3
    (message,) = queued(client, "batches")
    args, kwargs, embed = orjson.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([batch.id, 0], {})
    rest = [step["task"] for step in embed["chain"]]
    assert rest == [f"penstock.batch.{step}" for step in ("finish", "collect", "poll")]
    assert all(step["args"] == [batch.id, 0] for step in embed["chain"])
    assert message["headers"]["task"] == "penstock.batch.create"
    assert PROMPT not in orjson.dumps(message).decode()
    holding = [k for k in keys_of(client) if PROMPT in repr(everything(client, k))]
    assert holding == []  # it is compressed in the spool
    client.messages.batches._records.discard(batch.id)


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "requests: at least one"),
        ([request("a"), request("b"), request("a")], "line 3: .*'a' was already used in line 1"),
        ([request("a"), {"custom_id": "b c"}], "line 2: custom_id"),
        ([request("a", max_tokens="9")], "line 1: params.max_tokens"),
    ],
    ids=["none", "duplicate", "ill-formed", "params"],
)
def test_a_malformed_job_leaves_no_trace(
    client: Client, monkeypatch: pytest.MonkeyPatch, requests: list[Any], words: str
) -> None:
    monkeypatch.setattr(submission, "CHUNK_BYTES", 10)
    with pytest.raises(InvalidRequest, match=words):
        client.messages.batches.create(requests=requests)
    assert keys_of(client) == []


@pytest.mark.parametrize(("owner", "step"), [(Submission, "_record"), (WakeUps, "batch")])
def test_a_job_without_a_record_or_a_wake_up_leaves_no_trace(
    client: Client, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    def refuse(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(owner, step, refuse)
    with pytest.raises(ZeroDivisionError):
        client.messages.batches.create(requests=[request("a")])
    assert keys_of(client) == []


def test_a_request_whose_wake_up_failed_leaves_no_trace(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(WakeUps, "stream", refuse)
    with pytest.raises(ZeroDivisionError):
        client.messages.enqueue(**BODY)
    assert keys_of(client) == []


def test_a_client_can_be_shared_by_many_threads(url: str, client: Client) -> None:
    ids: list[str] = []
    failed: list[BaseException] = []

    def produce() -> None:
        try:
            for _ in range(10):
                ids.append(client.messages.enqueue(**BODY).id)  # noqa: PERF401
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=produce) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(set(ids)) == 200
    messages = queued(client, "streams")
    assert {message["headers"]["id"] for message in messages} == set(ids)
    assert len(messages) == 200
    assert all(client.messages.request(id).state is State.QUEUED for id in ids)


def test_threads_that_start_together_share_one_sender(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, made, found = threading.Barrier(2), [], []

    class Met(WakeUps):
        """Waits during its creation for a second one, as a slow import does."""

        def __init__(self, settings: ClientSettings) -> None:
            super().__init__(settings)
            made.append(self)
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(timeout=0.2)

    monkeypatch.setattr("penstock.client.WakeUps", Met)
    threads = [threading.Thread(target=lambda: found.append(client.wakeups)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert found == made * 2


def test_deployments_that_share_a_redis_do_not_share_their_queues(url: str, client: Client) -> None:
    client.messages.enqueue(**BODY)
    with Client(url, key_prefix="another") as other:
        other.messages.enqueue(**BODY)
    waiting = [
        redis_of(client).llen(key)
        for key in keys_of(client)
        if redis_of(client).type(key) == b"list"
    ]
    assert waiting == [1, 1]


def test_an_unreachable_redis_is_reported_within_seconds_without_the_password() -> None:
    port = free_port()
    with (
        Client(f"redis://someone:hunter2@127.0.0.1:{port}/0") as client,
        pytest.raises(RedisUnavailable) as caught,
    ):
        client.messages.enqueue(**BODY)
    message = str(caught.value)
    assert f"redis://127.0.0.1:{port}/0 cannot be reached" in message
    assert "PENSTOCK_REDIS_URL" in message
    assert "hunter2" not in message
    assert "\n" not in message


def test_every_call_reports_an_unreachable_redis() -> None:
    with Client(f"redis://127.0.0.1:{free_port()}/0") as client:
        id = "0190a5b0-0000-7000-8000-000000000001"
        batches = client.messages.batches
        calls: list[Any] = [
            lambda: client.messages.request(id),
            lambda: client.messages.attach(id),
            lambda: batches.create(requests=[request("a")]),
            lambda: batches.retrieve(id),
            lambda: batches.list(),
            lambda: batches.cancel(id),
            lambda: batches.delete(id),
            lambda: next(batches.events(id)),
            lambda: next(batches.results(id)),
        ]
        for call in calls:
            with pytest.raises(RedisUnavailable):
                call()


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedRedis]:
    """A Redis with a password."""
    with EmbeddedRedis(password="opensesame") as server:
        yield server


@pytest.mark.parametrize("user", [":hunter2@", "someone:hunter2@", ""])
def test_a_wrong_password_is_reported(guarded: EmbeddedRedis, user: str) -> None:
    address = f"127.0.0.1:{guarded.port}/0"
    with (
        Client(f"redis://{user}{address}") as client,
        pytest.raises(RedisUnavailable, match="refused the user or password") as caught,
    ):
        client.messages.enqueue(**BODY)
    assert f"redis://{address}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_right_password_is_accepted(guarded: EmbeddedRedis) -> None:
    with Client(guarded.url) as client:
        assert client.messages.enqueue(**BODY).state is State.QUEUED


@pytest.mark.parametrize(
    "enqueue",
    [
        lambda client: client.messages.enqueue(**BODY),
        lambda client: client.messages.batches.create(requests=[request("a")]),
    ],
    ids=["stream", "batch"],
)
def test_a_full_redis_is_reported(guarded: EmbeddedRedis, enqueue: Callable[[Client], Any]) -> None:
    with Client(guarded.url) as client:
        redis_of(client).config_set("maxmemory", "1")
        try:
            with pytest.raises(RedisUnavailable, match=r"is full \(maxmemory\)"):
                enqueue(client)
        finally:
            redis_of(client).config_set("maxmemory", "0")


def test_a_setting_that_cannot_be_used_stops_the_client() -> None:
    with pytest.raises(ConfigurationError, match="PENSTOCK_REQUEST_TTL_S: "):
        Client(request_ttl_s=0)


def test_importing_and_enqueuing_do_not_import_the_sdk(url: str, client: Client) -> None:
    script = f"""
import sys, penstock
assert "celery" not in sys.modules, "import penstock imported celery"
assert "redis" not in sys.modules, "import penstock imported redis"
client = penstock.Client({url!r})
handle = client.messages.enqueue(**{BODY!r})
client.messages.batches.create(requests=[{request("a")!r}])
handle.record(), handle.text(), handle.cancel()
next(handle.events(timeout=5))
assert "anthropic" not in sys.modules, "enqueuing imported the SDK"
client.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(queued(client, "streams")) == 1
