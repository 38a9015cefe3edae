"""Forks while readers read: the child has connections of its own, and the parent loses nothing."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from penstock.async_client import AsyncClient
from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.testing import wait_until
from tests.scripted import BLOCK, START, TIMEOUT_S, ScriptedWriter

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

PIECES = [f"{i}," for i in range(40)]
WHOLE = "".join(PIECES)


@pytest.fixture
def writer(penstock_client: Client) -> ScriptedWriter:
    writer = ScriptedWriter(penstock_client)
    writer.write(START, BLOCK)
    return writer


def forked(work: Callable[[], bool]) -> int:
    """Run ``work`` in a child. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(int(TIMEOUT_S))  # the kernel ends a child that hangs
    try:
        os._exit(0 if work() else 1)
    finally:
        os._exit(2)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def text_of(client: Client, id: str) -> str:
    return client.messages.attach(id, timeout=TIMEOUT_S).get_final_text()


async def text_on_a_loop(client: AsyncClient, id: str) -> str:
    async with client.messages.attach(id, timeout=TIMEOUT_S) as stream:
        return await stream.get_final_text()


def test_children_that_are_forked_during_streams_read_and_disturb_no_reader(
    penstock_redis: EmbeddedRedis, penstock_client: Client, writer: ScriptedWriter
) -> None:
    both = AsyncClient(penstock_redis.url)
    with Client(penstock_redis.url) as client, ThreadPoolExecutor(9) as pool:
        readers = [pool.submit(text_of, client, writer.id) for _ in range(8)]
        readers.append(pool.submit(lambda: asyncio.run(text_on_a_loop(both, writer.id))))
        wait_until(lambda: writer.subscribers == 2, what="both clients to subscribe")

        def in_a_thread() -> bool:
            found = text_of(client, writer.id) == WHOLE
            client.close()
            return found

        def on_a_loop() -> bool:
            async def main() -> bool:
                found = await text_on_a_loop(both, writer.id) == WHOLE
                await both.close()  # not on the loop of the parent
                return found

            return asyncio.run(main())

        children = []
        for i, piece in enumerate(PIECES):
            writer.text(piece)
            if i % 10 == 5:
                children.append(forked((in_a_thread, on_a_loop)[i // 10 % 2]))
        writer.end()
        assert [reader.result(TIMEOUT_S) for reader in readers] == [WHOLE] * 9
        assert [exit_code(child) for child in children] == [0] * 4
    asyncio.run(both.close())


def test_a_child_reads_although_all_commands_of_its_parent_were_taken(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    """Threads of the parent held the semaphore and the lock, and the child has no such threads."""
    writer.text(*PIECES)
    writer.end()
    with Client(penstock_redis.url) as client:
        multiplexer = client._multiplexer
        locked, done = threading.Event(), threading.Event()

        def hold() -> None:
            with multiplexer._lock:
                while multiplexer.command_slots.acquire(blocking=False):
                    pass
                locked.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        locked.wait()
        child = forked(lambda: text_of(client, writer.id) == WHOLE)
        assert exit_code(child) == 0
        done.set()
        thread.join()


def test_a_reader_that_is_forked_in_the_middle_continues_in_both_processes(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    with Client(penstock_redis.url) as client:
        reader = client.messages.handle(writer.id).events(timeout=TIMEOUT_S)
        assert [event.n for event in islice(reader, 3)] == [1, 2, 3]
        writer.text("live")
        assert next(reader).n == 4
        child = forked(lambda: [event.n for event in reader] == [5, 6])
        wait_until(lambda: writer.subscribers == 2, what="the child to subscribe")
        writer.text("both")
        writer.end()
        assert [event.n for event in reader] == [5, 6]
        assert exit_code(child) == 0


def test_the_subscription_of_a_parent_ends_although_its_child_has_a_copy_of_the_socket(
    penstock_redis: EmbeddedRedis, writer: ScriptedWriter
) -> None:
    reading, writing = os.pipe()
    with Client(penstock_redis.url) as client:
        reader = client.messages.handle(writer.id).events(timeout=TIMEOUT_S)
        assert [event.n for event in islice(reader, 3)] == [1, 2, 3]
        writer.text("live")
        assert next(reader).n == 4
        child = forked(lambda: os.read(reading, 1) == b"!")
        reader.close()
        wait_until(lambda: writer.subscribers == 0, what="the subscription to end")
        os.write(writing, b"!")
        assert exit_code(child) == 0
    os.close(reading)
    os.close(writing)
