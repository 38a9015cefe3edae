"""A client or a stream that is closed during reading: a clear error, and never half an answer."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from penstock.async_client import AsyncClient
from penstock.client import Client
from penstock.errors import ClientClosed, NotEnded
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.testing import wait_until
from tests.scripted import BLOCK, START, TIMEOUT_S, ScriptedWriter


@pytest.fixture
def writer(penstock_client: Client) -> ScriptedWriter:
    """A running request with a part of its answer."""
    writer = ScriptedWriter(penstock_client)
    writer.write(START, BLOCK)
    writer.text("half")
    return writer


def test_a_stream_that_another_thread_closes_ends_with_its_cursor(
    penstock_client: Client, writer: ScriptedWriter
) -> None:
    stream = penstock_client.messages.attach(writer.id)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(stream.get_final_text)
        wait_until(lambda: writer.subscribers == 1, what="the reader to subscribe")
        stream.close()
        stream.close()
        with pytest.raises(NotEnded, match="closed at 1-4"):
            reader.result(TIMEOUT_S)
    with pytest.raises(NotEnded):
        stream.get_final_text()
    wait_until(lambda: writer.subscribers == 0, what="the subscription to end")


def test_a_closed_stream_does_not_close_its_client(
    penstock_client: Client, writer: ScriptedWriter
) -> None:
    penstock_client.messages.attach(writer.id).close()
    writer.end()
    assert penstock_client.messages.attach(writer.id).get_final_text() == "half"


def test_a_client_that_is_closed_at_any_moment_ends_its_readers(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    """Before, during or after the first read of a thread: the loop meets many of these."""
    for _ in range(20):
        client = Client(penstock_redis.url)
        with ThreadPoolExecutor(4) as pool:
            readers: list[Future[str]] = [
                pool.submit(client.messages.handle(writer.id).stream().get_final_text)
                for _ in range(4)
            ]
            client.close()
            client.close()
            raised = [type(reader.exception(TIMEOUT_S)) for reader in readers]
        assert raised == [ClientClosed] * 4


def test_a_closed_client_opens_no_stream(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    writer.end()
    client = Client(penstock_redis.url)
    request = client.messages.request(writer.id)
    client.close()
    with pytest.raises(ClientClosed):
        request.stream().get_final_text()


def test_a_stream_that_another_task_closes_ends_with_its_cursor(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    async def main() -> None:
        async with AsyncClient(penstock_redis.url) as client:
            stream = await client.messages.attach(writer.id)
            reader = asyncio.create_task(stream.get_final_text())
            await asyncio.to_thread(wait_until, lambda: writer.subscribers == 1)
            await stream.close()
            await stream.close()
            with pytest.raises(NotEnded, match="closed at 1-4"):
                await reader

    asyncio.run(main())


def test_an_async_client_that_is_closed_at_any_moment_ends_its_readers(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    async def main(turns: int) -> list[type[object]]:
        client = AsyncClient(penstock_redis.url)
        request = await client.messages.request(writer.id)
        readers = [asyncio.create_task(request.stream().get_final_text()) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()
        await client.close()
        return [type(each) for each in await asyncio.gather(*readers, return_exceptions=True)]

    for turns in range(0, 40, 3):
        assert asyncio.run(main(turns)) == [ClientClosed] * 4


def test_a_stream_on_another_event_loop_is_refused(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    with asyncio.Runner() as first:
        client = AsyncClient(penstock_redis.url)
        stream = first.run(client.messages.attach(writer.id).__aenter__())
        events = aiter(stream)
        assert first.run(anext(events)).type == "penstock.queued"  # type: ignore[arg-type]

        async def rest() -> None:
            async for _ in events:
                pass

        with pytest.raises(RuntimeError, match="another event loop"), asyncio.Runner() as second:
            second.run(rest())
        first.run(client.close())
