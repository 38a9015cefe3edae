"""One pub/sub connection for all readers: shared, lost, reopened and never leaked."""

import asyncio
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from penstock import events
from penstock.async_client import AsyncClient
from penstock.client import Client
from penstock.errors import ClientClosed, RedisUnavailable
from penstock.events import Event
from penstock.follow import plan, waiting
from penstock.follow.subscription import SUBSCRIPTION_LIMIT
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import free_port
from penstock.testing import wait_until
from tests.connections import redis_of
from tests.scripted import TIMEOUT_S, ScriptedWriter

START_METHOD = "fork" if "fork" in multiprocessing.get_all_start_methods() else None


@pytest.fixture
def writer(penstock_client: Client) -> ScriptedWriter:
    return ScriptedWriter(penstock_client)


@pytest.fixture(autouse=True)
def nothing_is_left(penstock_client: Client) -> Iterator[None]:
    """No thread, no subscription, no connection."""
    yield
    assert [t.name for t in threading.enumerate() if t.name == "penstock-multiplexer"] == []
    wait_until(lambda: connections(penstock_client) == 0, what="all pub/sub connections to close")


def connections(client: Client) -> int:
    return len(redis_of(client).client_list(_type="pubsub"))


def numbers(found: list[Event]) -> list[int]:
    return [event.n for event in found]


def opened(writer: ScriptedWriter) -> Iterator[Event]:
    """A reader whose subscription is acknowledged."""
    reader = writer.request().events(timeout=TIMEOUT_S)
    assert next(reader).type == events.QUEUED
    writer.text("live")
    assert next(reader).n == writer.n
    return reader


def test_all_readers_share_one_connection_and_one_subscription_a_channel(
    penstock_client: Client,
) -> None:
    writers = [ScriptedWriter(penstock_client) for _ in range(5)]
    readers = [opened(writer) for writer in writers]
    second = writers[0].request().events(timeout=TIMEOUT_S)
    assert numbers(list(islice(second, 2))) == [1, 2]
    assert connections(penstock_client) == 1
    assert [writer.subscribers for writer in writers] == [1] * 5
    for writer in writers:
        writer.end()
    assert [numbers(list(reader)) for reader in readers] == [[3]] * 5
    assert numbers(list(second)) == [3]


def test_the_channel_is_unsubscribed_after_its_last_reader(penstock_client: Client) -> None:
    writer, other = ScriptedWriter(penstock_client), ScriptedWriter(penstock_client)
    first, second, third = opened(writer), writer.request().events(timeout=20), opened(other)
    assert numbers(list(islice(second, 2))) == [1, 2]
    writer.text("x")
    assert (next(first).n, next(second).n) == (3, 3)
    first.close()  # type: ignore[attr-defined]  # it is a generator
    writer.text("y")
    assert next(second).n == 4
    assert writer.subscribers == 1
    second.close()
    wait_until(lambda: writer.subscribers == 0, what="the subscription to end")
    other.end()
    assert next(third).type == events.END
    assert list(third) == []


def test_a_request_that_has_ended_needs_no_connection(
    penstock_client: Client, writer: ScriptedWriter
) -> None:
    writer.text("all")
    writer.end()
    reader = writer.request().events(timeout=TIMEOUT_S)
    assert numbers(list(islice(reader, 2))) == [1, 2]
    assert connections(penstock_client) == 0
    assert next(reader).type == events.END
    assert list(reader) == []


def test_a_lost_connection_costs_no_event(penstock_client: Client, writer: ScriptedWriter) -> None:
    reader = opened(writer)
    for _ in range(3):
        writer.cut()
        writer.text("a", "b")
        assert numbers(list(islice(reader, 2))) == [writer.n - 1, writer.n]
        wait_until(lambda: writer.subscribers == 1, what="the multiplexer to reconnect")
        writer.text("c")
        assert next(reader).n == writer.n
    writer.end()
    assert next(reader).type == events.END
    assert list(reader) == []


def test_a_slow_reader_reads_the_log_and_loses_nothing(
    penstock_client: Client, writer: ScriptedWriter
) -> None:
    slow, quick = opened(writer), writer.request().events(timeout=TIMEOUT_S)
    count = SUBSCRIPTION_LIMIT + 200
    writer.text(*("x" * count))
    writer.end()
    assert numbers(list(quick)) == [*range(1, count + 4)]
    assert numbers(list(slow)) == [*range(3, count + 4)]


def test_two_hundred_readers_at_once_all_get_everything(
    penstock_client: Client, writer: ScriptedWriter
) -> None:
    found: list[list[int]] = []

    def read() -> None:
        found.append(numbers(list(writer.request().events(timeout=TIMEOUT_S))))

    threads = [threading.Thread(target=read) for _ in range(200)]
    for i, thread in enumerate(threads):
        thread.start()
        writer.write({"type": "x"}, publish=i % 7 != 0)
    writer.end()
    for thread in threads:
        thread.join()
    assert found == [[*range(1, 203)]] * 200


def test_closing_the_client_ends_its_readers(penstock_redis: EmbeddedRedis) -> None:
    with Client(penstock_redis.url) as client:
        writer = ScriptedWriter(client)
        reader = opened(writer)
        raised: list[BaseException] = []

        def read() -> None:
            try:
                next(reader)
            except ClientClosed as error:
                raised.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        client.close()
        thread.join()
    assert len(raised) == 1
    with pytest.raises(ClientClosed):
        client._multiplexer.join("any")


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Callable[[], EmbeddedRedis]]:
    """Starts a Redis, or restarts it with what it had on disk."""
    port = free_port()
    servers: list[EmbeddedRedis] = []

    def start() -> EmbeddedRedis:
        servers.append(EmbeddedRedis(folder=tmp_path, port=port).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def test_a_redis_that_is_killed_and_restarted_costs_no_event(
    restartable: Callable[[], EmbeddedRedis],
) -> None:
    server = restartable()
    with Client(server.url) as client:
        writer = ScriptedWriter(client)
        readers = [opened(writer)] + [writer.request().events(timeout=TIMEOUT_S) for _ in "ab"]
        assert [numbers(list(islice(r, 2))) for r in readers[1:]] == [[1, 2]] * 2
        server.kill()
        restartable()
        writer.text("again")
        assert [next(reader).n for reader in readers] == [3] * 3
        wait_until(lambda: writer.subscribers == 1, what="the multiplexer to reconnect")
        writer.text("live")
        writer.end()
        assert [numbers(list(reader)) for reader in readers] == [[4, 5]] * 3


def test_a_redis_that_stays_unavailable_ends_the_reader_with_its_cursor(
    restartable: Callable[[], EmbeddedRedis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_UNAVAILABLE_S", 0.0)
    monkeypatch.setattr(plan, "SILENCE_S", 0.1)
    server = restartable()
    with Client(server.url) as client:
        writer = ScriptedWriter(client)
        reader = writer.request().events()
        assert next(reader).n == 1
        writer.text("a")
        assert next(reader).n == 2
        server.kill()
        with pytest.raises(RedisUnavailable, match="after='1-2'"):
            next(reader)


def test_a_user_without_permission_to_subscribe_gets_an_error(
    penstock_redis: EmbeddedRedis,
) -> None:
    with Client(penstock_redis.url) as admin:
        redis_of(admin).acl_setuser(
            "blind", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-subscribe"]
        )
        writer = ScriptedWriter(admin)
        url = penstock_redis.url.replace("redis://", "redis://blind:x@")
        with Client(url) as client:
            reader = client.messages.request(writer.id).events(timeout=TIMEOUT_S)
            assert next(reader).n == 1
            with pytest.raises(RedisUnavailable, match="denies this user"):
                next(reader)
        redis_of(admin).acl_deluser("blind")


def _read_in_child(client: Client, id: str, found: Any) -> None:
    found.put([event.n for event in client.messages.request(id).events(timeout=TIMEOUT_S)])


@pytest.mark.skipif(START_METHOD is None, reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_multiplexer_of_its_own(
    penstock_client: Client, writer: ScriptedWriter
) -> None:
    reader = opened(writer)
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    child = context.Process(target=_read_in_child, args=(penstock_client, writer.id, found))
    child.start()
    wait_until(lambda: writer.subscribers == 2, what="the child to subscribe")
    writer.text("both")
    assert next(reader).n == 3
    writer.end()
    assert next(reader).n == 4
    assert list(reader) == []
    assert found.get(timeout=TIMEOUT_S) == [1, 2, 3, 4]
    child.join()
    assert child.exitcode == 0
    found.close()
    found.join_thread()


# The same on an event loop.


def test_readers_on_an_event_loop_share_one_connection_and_leave_nothing(
    penstock_redis: EmbeddedRedis, penstock_client: Client
) -> None:
    writers = [ScriptedWriter(penstock_client) for _ in range(20)]

    async def read(client: AsyncClient, id: str) -> list[int]:
        request = await client.messages.request(id)
        return [event.n async for event in request.events(timeout=TIMEOUT_S)]

    def write() -> None:
        wait_until(lambda: all(w.subscribers for w in writers), what="all subscriptions")
        assert connections(penstock_client) == 1
        for writer in writers:
            writer.text("a", "b")
            writer.end()

    async def main() -> list[list[int]]:
        async with AsyncClient(penstock_redis.url) as client:
            tasks = [asyncio.create_task(read(client, w.id)) for w in writers for _ in range(10)]
            await asyncio.to_thread(write)
            found = await asyncio.gather(*tasks)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    assert asyncio.run(main()) == [[1, 2, 3, 4]] * 200


def test_lost_connections_and_overflow_cost_a_reader_on_an_event_loop_no_event(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    count = SUBSCRIPTION_LIMIT + 200

    async def main() -> list[int]:
        async with AsyncClient(penstock_redis.url) as client:
            request = await client.messages.request(writer.id)
            reader = request.events(timeout=TIMEOUT_S)
            assert (await anext(reader)).n == 1
            writer.text("a")
            assert (await anext(reader)).n == 2
            await asyncio.to_thread(writer.cut)
            writer.text("b")
            assert (await anext(reader)).n == 3
            await asyncio.to_thread(writer.text, *("x" * count))
            writer.end()
            return [event.n async for event in reader]

    assert asyncio.run(main()) == [*range(4, count + 5)]


def test_a_reader_on_an_event_loop_outlives_its_redis(
    restartable: Callable[[], EmbeddedRedis],
) -> None:
    server = restartable()

    async def main(writer: ScriptedWriter) -> list[int]:
        async with AsyncClient(server.url) as client:
            request = await client.messages.request(writer.id)
            reader = request.events(timeout=TIMEOUT_S)
            assert [(await anext(reader)).n for _ in "ab"] == [1, 2]
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(restartable)
            await asyncio.to_thread(writer.text, "again")
            writer.end()
            return [event.n async for event in reader]

    with Client(server.url) as client:
        writer = ScriptedWriter(client)
        writer.text("a")
        assert asyncio.run(main(writer)) == [3, 4]


def test_a_canceled_task_unsubscribes_its_channel(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    async def main() -> None:
        async with AsyncClient(penstock_redis.url) as client:
            stream = await client.messages.attach(writer.id, timeout=TIMEOUT_S)
            task = asyncio.create_task(stream.until_done())
            await asyncio.to_thread(wait_until, lambda: writer.subscribers == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_until, lambda: writer.subscribers == 0)

    asyncio.run(main())


def test_closing_an_async_client_ends_its_readers(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    async def main() -> None:
        client = AsyncClient(penstock_redis.url)
        stream = await client.messages.attach(writer.id)
        task = asyncio.create_task(stream.until_done())
        await asyncio.to_thread(wait_until, lambda: writer.subscribers == 1)
        await client.close()
        with pytest.raises(ClientClosed):
            await task

    asyncio.run(main())
