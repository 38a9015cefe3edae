"""One AsyncClient on several event loops: after each other, and at the same time in threads."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.async_client import AsyncClient
from penstock.client import Client
from penstock.errors import ClientClosed
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.testing import wait_until
from tests.scripted import BLOCK, START, TIMEOUT_S, ScriptedWriter, delta


@pytest.fixture
def writer(penstock_client: Client) -> ScriptedWriter:
    return ScriptedWriter(penstock_client)


@pytest.fixture
def client(penstock_redis: EmbeddedRedis) -> AsyncClient:
    """A client that was made outside of any loop."""
    return AsyncClient(penstock_redis.url)


async def first_text(client: AsyncClient, id: str) -> str:
    """Read the first text of a running answer, and leave the stream open."""
    stream = await client.messages.attach(id, timeout=TIMEOUT_S)
    async for event in stream:
        if event.type == "content_block_delta":
            return str(event.delta.text)
    raise AssertionError("no text")


async def final_text(client: AsyncClient, id: str) -> str:
    async with client.messages.attach(id, timeout=TIMEOUT_S) as stream:
        return await stream.get_final_text()


def test_a_client_follows_on_one_loop_after_the_other(
    client: AsyncClient, writer: ScriptedWriter
) -> None:
    writer.write(START, BLOCK, delta("Hi"))
    for _ in range(3):
        assert asyncio.run(first_text(client, writer.id)) == "Hi"
        gc.collect()  # a connection that was left open would warn here, which is an error
        wait_until(lambda: writer.subscribers == 0, what="the end of the connection")
    writer.end()
    assert asyncio.run(final_text(client, writer.id)) == "Hi"
    asyncio.run(client.close())


def test_loops_in_threads_follow_at_the_same_time(
    client: AsyncClient, writer: ScriptedWriter
) -> None:
    writer.write(START, BLOCK, delta("Hi"))
    with ThreadPoolExecutor(4) as pool:
        reading = [
            pool.submit(lambda: asyncio.run(final_text(client, writer.id))) for _ in range(4)
        ]
        wait_until(lambda: writer.subscribers == 4, what="four readers")
        writer.end()
        assert [each.result(TIMEOUT_S) for each in reading] == ["Hi"] * 4
    asyncio.run(client.close())


def test_closing_a_client_ends_the_readers_of_every_loop(
    client: AsyncClient, writer: ScriptedWriter
) -> None:
    raised: list[type[BaseException]] = []

    def read() -> None:
        try:
            asyncio.run(final_text(client, writer.id))
        except ClientClosed as error:
            raised.append(type(error))

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: writer.subscribers == 1, what="the reader")
    asyncio.run(client.close())
    thread.join(TIMEOUT_S)
    assert raised == [ClientClosed]
    with pytest.raises(ClientClosed):
        asyncio.run(final_text(client, writer.id))
