"""AsyncClient: the same streams with ``await`` and ``async for``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from penstock.async_client import AsyncClient
from penstock.client import Client
from penstock.errors import (
    NotEnded,
    NotFound,
    RedisUnavailable,
    RequestCanceled,
    RequestFailed,
    TextRewound,
)
from penstock.events import END, PROGRESS, QUEUED, Cursor
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import free_port
from penstock.states import State
from penstock.testing import wait_until
from tests.connections import redis_of
from tests.scripted import BLOCK, START, TIMEOUT_S, ScriptedWriter, delta, rewind

Scenario = Callable[[AsyncClient], Awaitable[None]]

BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}


@pytest.fixture
def writer(penstock_client: Client) -> ScriptedWriter:
    return ScriptedWriter(penstock_client)


@pytest.fixture
def run(penstock_redis: EmbeddedRedis) -> Callable[[Scenario], None]:
    """Run a scenario with a client of its own, after which no task may be left."""

    async def main(scenario: Scenario) -> None:
        async with AsyncClient(penstock_redis.url) as client:
            await scenario(client)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    return lambda scenario: asyncio.run(main(scenario))


async def collected(pieces: AsyncIterator[str]) -> list[str]:
    return [piece async for piece in pieces]


def test_text_and_message_of_a_live_answer(
    run: Callable[[Scenario], None], writer: ScriptedWriter
) -> None:
    def write() -> None:
        wait_until(lambda: writer.subscribers == 1, what="the reader")
        writer.write(START, BLOCK, delta("Hel"), delta("lo"))
        writer.end(stop_reason="end_turn")

    async def scenario(client: AsyncClient) -> None:
        async with client.messages.attach(writer.id, timeout=TIMEOUT_S) as stream:
            writing = asyncio.create_task(asyncio.to_thread(write))
            assert "".join(await collected(stream.text_stream)) == "Hello"
            await writing
            assert await stream.get_final_text() == "Hello"
            message = await stream.get_final_message()
            assert message.content[0].to_dict() == {"type": "text", "text": "Hello"}
            assert stream.end is not None
            assert stream.end.state == State.DONE
            assert stream.cursor == Cursor(1, writer.n)

    run(scenario)


def test_late_resumed_and_event_readers_see_the_same_answer(
    run: Callable[[Scenario], None], writer: ScriptedWriter
) -> None:
    writer.write(START, BLOCK, delta("Hel"), delta("lo"))
    writer.end()

    async def scenario(client: AsyncClient) -> None:
        late = await client.messages.attach(writer.id, timeout=TIMEOUT_S)
        assert await collected(late.text_stream) == ["Hello"]
        message = await late.get_final_message()
        resumed = await client.messages.attach(writer.id, after="1-4", timeout=TIMEOUT_S)
        assert resumed.cursor == Cursor(1, 4)
        assert await collected(resumed.text_stream) == ["lo"]
        assert await resumed.get_final_text() == "Hello"
        assert await resumed.get_final_message() == message
        everything = await client.messages.attach(writer.id, timeout=TIMEOUT_S)
        kinds = [event.type async for event in everything]
        assert (kinds[0], kinds[-1]) == (QUEUED, END)
        assert await everything.get_final_message() == message
        request = await client.messages.request(writer.id)
        assert (await request.result()).id == message.id
        assert await request.text() == "Hello"
        assert (await request.record()).state is State.DONE

    run(scenario)


def test_withdrawn_text_on_an_event_loop(
    run: Callable[[Scenario], None], writer: ScriptedWriter
) -> None:
    writer.write(START, BLOCK, delta("Hello"), delta(" wor"))

    async def scenario(client: AsyncClient) -> None:
        late = await client.messages.attach(writer.id, timeout=TIMEOUT_S)
        resumed = await client.messages.attach(writer.id, after="1-4", timeout=TIMEOUT_S)
        late_text, resumed_text = late.text_stream, resumed.text_stream
        assert (await anext(late_text), await anext(resumed_text)) == ("Hello wor", " wor")
        writer.write(rewind(0, 6))
        writer.set_text("Hello ")
        writer.write(delta("world"))
        assert (await anext(late_text), await anext(resumed_text)) == ("ld", "ld")
        writer.write(rewind(0, 0))
        writer.set_text("")
        writer.write(BLOCK, delta("HELLO"))
        for text in (late_text, resumed_text):
            with pytest.raises(TextRewound):
                await anext(text)
        await late.close()
        await resumed.close()

    run(scenario)


def test_how_an_answer_can_end(run: Callable[[Scenario], None], penstock_client: Client) -> None:
    failed, canceled = ScriptedWriter(penstock_client), ScriptedWriter(penstock_client)
    failed.write(START, BLOCK, delta("ha"), delta("lf"))
    failed.end(state="failed", error={"type": "api_error", "message": "busy"})
    canceled.write(START, BLOCK, delta("half"))

    async def scenario(client: AsyncClient) -> None:
        for after in (None, "1-4"):
            stream = await client.messages.attach(failed.id, after=after, timeout=TIMEOUT_S)
            with pytest.raises(RequestFailed, match="api_error: busy") as caught:
                await stream.until_done()
            assert caught.value.text == "half"
        stream = await client.messages.attach(canceled.id, timeout=TIMEOUT_S)
        assert await stream.cancel() is State.QUEUED  # no worker holds it, so it ends at once
        with pytest.raises(RequestCanceled, match="canceled by client"):
            await stream.get_final_message()

    run(scenario)


def test_a_partial_answer_is_never_returned_as_the_final_one(
    run: Callable[[Scenario], None], writer: ScriptedWriter
) -> None:
    writer.write(START, BLOCK, delta("half"))

    async def scenario(client: AsyncClient) -> None:
        timed_out = await client.messages.attach(writer.id, timeout=0.05)
        with pytest.raises(TimeoutError):
            await timed_out.until_done()
        with pytest.raises(NotEnded, match="after='1-4'"):
            await timed_out.get_final_text()
        closed = await client.messages.attach(writer.id)
        assert await anext(closed.text_stream) == "half"
        await closed.close()
        with pytest.raises(NotEnded, match="closed at 1-4"):
            await closed.get_final_text()

    run(scenario)


def test_a_reader_may_start_before_the_request(
    run: Callable[[Scenario], None], penstock_client: Client
) -> None:
    writer = ScriptedWriter(penstock_client, submit=False)

    def write() -> None:
        wait_until(lambda: writer.subscribers == 1, what="the reader")
        writer.submit()
        writer.write(START, BLOCK, delta("there"))
        writer.end()

    async def scenario(client: AsyncClient) -> None:
        with pytest.raises(NotFound):
            await client.messages.attach(writer.id)
        writing = asyncio.create_task(asyncio.to_thread(write))
        async with client.messages.attach(writer.id, wait_for=TIMEOUT_S) as stream:
            assert await stream.get_final_text() == "there"
        await writing

    run(scenario)


def test_requests_are_enqueued_and_can_be_canceled(penstock_redis: EmbeddedRedis) -> None:
    """In a database of its own, where no worker takes them."""
    url = penstock_redis.url.removesuffix("/0") + "/6"

    async def main() -> None:
        async with AsyncClient(url) as client:
            async with client.messages.stream(**BODY, timeout=0.05) as stream:
                with pytest.raises(TimeoutError):
                    await stream.until_done()
                assert await stream.cancel() is State.QUEUED
            request = await client.messages.enqueue(**BODY)
            assert (await request.record()).fields["model"] == BODY["model"]
            assert repr(request) == f"<AsyncStreamRequest {request.id}>"
            assert await anext(request.events()) is not None

    asyncio.run(main())
    with Client(url) as client:
        redis_of(client).flushdb()


def test_the_methods_of_batches_can_be_awaited(penstock_redis: EmbeddedRedis) -> None:
    url = penstock_redis.url.removesuffix("/0") + "/6"
    requests = [{"custom_id": "a", "params": BODY}]

    async def main() -> None:
        async with AsyncClient(url) as client:
            batches = client.messages.batches
            job = await batches.create(requests=requests)
            assert (await batches.retrieve(job.id)).state is State.QUEUED
            assert [each.id for each in (await batches.list()).data] == [job.id]
            assert [each.id async for each in batches.list(limit=1)] == [job.id]
            assert (await anext(batches.events(job.id, timeout=TIMEOUT_S))).type == QUEUED
            assert (await batches.cancel(job.id)).cancel_initiated
            with pytest.raises(NotEnded):
                await anext(batches.results(job.id))
            with pytest.raises(NotEnded):
                await batches.delete(job.id)
            with pytest.raises(NotFound):
                await batches.retrieve(new_id())

    asyncio.run(main())
    with Client(url) as client:
        redis_of(client).flushdb()


def test_every_call_reports_an_unreachable_redis() -> None:
    async def main() -> None:
        async with AsyncClient(f"redis://127.0.0.1:{free_port()}/0") as client:
            with pytest.raises(RedisUnavailable):
                await client.messages.enqueue(**BODY)
            with pytest.raises(RedisUnavailable):
                await client.messages.attach(new_id())
            with pytest.raises(RedisUnavailable):
                await anext(client.messages.batches.events(new_id()))

    asyncio.run(main())


def test_the_progress_of_a_job_is_followed_like_a_stream(
    run: Callable[[Scenario], None], writer: ScriptedWriter
) -> None:
    writer.epoch = 0  # the events of a job are numbered by the script
    writer.write({"type": PROGRESS, "step": "create"})

    async def scenario(client: AsyncClient) -> None:
        events = client.messages.batches.events(writer.id, timeout=TIMEOUT_S)
        assert [(await anext(events)).type for _ in "ab"] == [QUEUED, PROGRESS]
        writer.write({"type": PROGRESS, "step": "poll"}, publish=False)
        writer.end()
        assert [event.n async for event in events] == [3, 4]

    run(scenario)
