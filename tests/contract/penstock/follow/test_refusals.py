"""Readers of a Redis that refuses: what may pass is waited out, what cannot pass is named.

Every refusal is a reply of the real server.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import pytest
import redis

from penstock import events
from penstock.async_client import AsyncClient
from penstock.client import Client
from penstock.errors import RecordUnreadable, RedisUnavailable
from penstock.follow import waiting
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.testing import wait_until
from tests.connections import redis_of
from tests.scripted import BLOCK, START, TIMEOUT_S, ScriptedWriter


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """A server whose configuration the tests may change."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def writer(client: Client) -> ScriptedWriter:
    writer = ScriptedWriter(client)
    writer.write(START, BLOCK)
    writer.text("Hello ")
    return writer


@pytest.fixture
def errors_seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The errors that readers have met. They ask Redis again and again, without long pauses."""
    seen: list[str] = []
    decide = waiting.may_succeed_later

    def noted(error: BaseException) -> bool:
        seen.append(str(error))
        return decide(error)

    monkeypatch.setattr(waiting, "may_succeed_later", noted)
    monkeypatch.setattr(waiting, "RETRY_S", 0.05)
    monkeypatch.setattr("penstock.follow.plan.SILENCE_S", 0.05)
    return seen


@contextmanager
def full(connection: Any) -> Iterator[None]:
    connection.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            connection.set("any", "more")
        yield
    finally:
        connection.config_set("maxmemory", 0)


@contextmanager
def without_primary(connection: Any) -> Iterator[None]:
    """A replica without its primary, configured not to answer then (MASTERDOWN)."""
    connection.config_set("replica-serve-stale-data", "no")
    connection.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        connection.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def busy(connection: Any) -> Iterator[None]:
    """A server that is running a script which does not end (BUSY)."""
    connection.config_set("lua-time-limit", 10)

    def spin() -> None:
        with suppress(redis.ResponseError), connection.client() as own:
            own.eval("while true do end", 0)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        wait_until(lambda: killed(connection), what="the script to run and end")
        thread.join()


def killed(connection: Any) -> bool:
    with suppress(redis.ResponseError):  # it does not run yet
        return bool(connection.script_kill())
    return False


# -- a full Redis: it refuses every command in MULTI, also those that only read --------------------


def test_every_kind_of_reader_reads_from_a_full_redis(
    server: EmbeddedRedis, client: Client, writer: ScriptedWriter
) -> None:
    live = writer.request().events(timeout=TIMEOUT_S)
    assert [event.n for event in islice(live, 4)] == [1, 2, 3, 4]
    writer.text("world")
    assert next(live).n == 5
    writer.end(stop_reason="end_turn")

    async def on_an_event_loop() -> tuple[str, str]:
        async with AsyncClient(server.url) as client:
            stream = await client.messages.attach(writer.id, timeout=TIMEOUT_S)
            text = "".join([piece async for piece in stream.text_stream])
            return text, await (await client.messages.request(writer.id)).text()

    with full(redis_of(client)):
        assert next(live).type == events.END
        assert writer.request().text() == "Hello world"
        late = client.messages.attach(writer.id, timeout=TIMEOUT_S)
        assert "".join(late.text_stream) == "Hello world"
        assert late.get_final_message().content[0].text == "Hello world"  # type: ignore[union-attr]
        assert asyncio.run(on_an_event_loop()) == ("Hello world", "Hello world")


def test_a_live_reader_of_a_full_redis_gets_what_is_written_once_there_is_room(
    client: Client, writer: ScriptedWriter, errors_seen: list[str]
) -> None:
    live = writer.request().events(timeout=TIMEOUT_S)
    assert [event.n for event in islice(live, 4)] == [1, 2, 3, 4]
    writer.text("big ")
    assert next(live).n == 5
    with full(redis_of(client)):
        writer.cut()  # the reader subscribes again, and reads the log
        wait_until(lambda: writer.subscribers == 1, what="the reader to subscribe again")
    writer.text("world")
    writer.end()
    assert [event.n for event in live] == [6, 7]
    assert [error for error in errors_seen if "OOM" in error] == []


def test_a_job_is_read_from_a_full_redis(client: Client) -> None:
    job = client.messages.batches.create(
        requests=[
            {
                "custom_id": "a",
                "params": {
                    "model": "claude-haiku-4-5",
                    "max_tokens": 5,
                    "messages": [{"role": "user", "content": "Hi"}],
                },
            }
        ]
    )
    with full(redis_of(client)):
        assert client.messages.batches.retrieve(job.id).id == job.id
        assert next(client.messages.batches.events(job.id)).type == events.QUEUED
        with pytest.raises(TimeoutError):
            client.messages.batches.wait(job.id, timeout=0.1)


# -- refusals that pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("refusing", [busy, without_primary])
def test_a_refusal_that_passes_costs_a_reader_no_event(
    server: EmbeddedRedis,
    client: Client,
    writer: ScriptedWriter,
    errors_seen: list[str],
    refusing: Callable[[Any], Any],
) -> None:
    async def read_on_an_event_loop() -> str:
        async with (
            AsyncClient(server.url) as client,
            client.messages.attach(writer.id, timeout=TIMEOUT_S) as stream,
        ):
            return await stream.get_final_text()

    def read() -> str:
        return client.messages.attach(writer.id, timeout=TIMEOUT_S).get_final_text()

    with ThreadPoolExecutor(2) as pool, Client(server.url) as other:
        readers: list[Future[str]] = [
            pool.submit(read),
            pool.submit(lambda: asyncio.run(read_on_an_event_loop())),
        ]
        wait_until(lambda: writer.subscribers == 2, what="the readers to subscribe")
        with refusing(redis_of(other)):
            wait_until(lambda: len(errors_seen) >= 4, what="the readers to be refused")
        writer.text("world")
        writer.end()
        assert [each.result(TIMEOUT_S) for each in readers] == ["Hello world"] * 2


def test_a_redis_that_refuses_for_too_long_is_named_with_the_cursor(
    client: Client,
    writer: ScriptedWriter,
    errors_seen: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "MAX_UNAVAILABLE_S", 0.0)
    live = writer.request().events()
    assert [event.n for event in islice(live, 4)] == [1, 2, 3, 4]
    cause = r"Link with MASTER is down.*after='1-4'"
    with without_primary(redis_of(client)), pytest.raises(RedisUnavailable, match=cause):
        next(live)


# -- refusals that do not pass: only the reader that they concern ends -----------------------------


def test_a_reader_without_permission_for_a_channel_harms_no_other_of_the_client(
    server: EmbeddedRedis, client: Client, writer: ScriptedWriter
) -> None:
    forbidden = ScriptedWriter(client)
    admin = redis_of(client)
    admin.execute_command(
        "ACL", "SETUSER", "one", "on", "nopass", "~*", "+@all", "resetchannels",
        f"&{writer.keys.events}",
    )  # fmt: skip
    with Client(server.url.replace("redis://", "redis://one:x@")) as limited:
        allowed = limited.messages.handle(writer.id).events(timeout=TIMEOUT_S)
        assert [event.n for event in islice(allowed, 4)] == [1, 2, 3, 4]
        writer.text("live")
        assert next(allowed).n == 5
        connection = pubsub_ids(admin)
        for _ in range(2):  # a second reader asks again, and is refused again
            refused = limited.messages.handle(forbidden.id).events(timeout=TIMEOUT_S)
            assert next(refused).n == 1
            with pytest.raises(RedisUnavailable, match="denies this user"):
                next(refused)
        assert pubsub_ids(admin) == connection, "the others were disconnected"
        writer.cut()  # all channels are subscribed to again
        writer.end()
        assert [event.n for event in allowed] == [6]


def pubsub_ids(connection: Any) -> list[str]:
    return [each["id"] for each in connection.client_list(_type="pubsub")]


@pytest.mark.parametrize(
    "damage",
    [
        lambda connection, keys: connection.set(keys.log, "text", ex=300),
        lambda connection, keys: connection.set(keys.meta, "text", ex=300),
        lambda connection, keys: connection.hset(keys.meta, "state", "perhaps"),
        lambda connection, keys: connection.hset(keys.meta, "n", "many"),
        lambda connection, keys: connection.hset(keys.meta, "base", "-"),
    ],
    ids=["log of another type", "record of another type", "state", "n", "base"],
)
def test_a_damaged_record_ends_its_reader_with_an_error_that_names_it(
    client: Client, writer: ScriptedWriter, damage: Callable[[Any, Any], object]
) -> None:
    intact = ScriptedWriter(client)
    other = intact.request().events(timeout=TIMEOUT_S)
    assert next(other).n == 1
    damage(redis_of(client), writer.keys)
    with pytest.raises(RecordUnreadable, match=writer.id):
        list(writer.request().events(timeout=TIMEOUT_S))
    intact.end()
    assert [event.n for event in other] == [2]
