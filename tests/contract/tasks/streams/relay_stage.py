"""A relay over a real Redis and a scripted API, run as a worker's task runs it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson

from config.settings import WorkerSettings
from penstock.events import Event, decode
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.store.connection import connect, connect_async
from penstock.streams.records import RequestOptions, RequestRecords
from tasks.api.client import async_client
from tasks.streams.publish.publisher import Publisher
from tasks.streams.publish.script_pipeline import ScriptPipeline
from tasks.streams.relay import Relay
from tasks.streams.result import RunResult
from tests.contract.tasks.streams.raw_api import Answer, RawApi, raw_api

T = TypeVar("T")

PREFILL = "claude-haiku-4-5"  #: continues a partial assistant message
USER_TURN = "claude-opus-5-5"  #: continues only after a further user turn
MAX_RUNS = 60


class RelayStage:
    """A deployment of its own with one worker."""

    def __init__(self, server: EmbeddedRedis, api: RawApi, **settings: Any) -> None:
        options = {
            "key_prefix": f"relay-{new_id()[-8:]}",
            "anthropic_base_url": api.url,
            "ANTHROPIC_API_KEY": "k",
            "stream_idle_timeout_s": 0.3,
            "api_retry_max_wait_s": 0.01,
        }
        options["ANTHROPIC_BASE_URL"] = options.pop("anthropic_base_url")
        self.settings = WorkerSettings(redis_url=server.url, **{**options, **settings})  # type: ignore[arg-type]
        self.api = api
        self.connection: Any = connect(self.settings)
        self._async = connect_async(self.settings)
        self._apis: list[Any] = []
        self.relay = self.new_relay("w1")

    def new_relay(self, worker: str) -> Relay:
        """The relay of one more worker."""
        pipeline = ScriptPipeline(self._async, timeout_s=5.0)
        publisher = Publisher(pipeline, self.settings.keys, lease_ms=self.settings.lease_ms)
        publisher.start()
        self._apis.append(async_client(self.settings))
        return Relay(self.settings, self._async, self._apis[-1], publisher, worker)

    def submit(self, model: str = PREFILL, *, on_interrupt: str = "continue", **fields: Any) -> str:
        """Record a request."""
        messages = [{"role": "user", "content": "Say something."}]
        body = {"model": model, "max_tokens": 4096, "messages": messages, "stream": True, **fields}
        id = new_id()
        options = RequestOptions(on_interrupt=on_interrupt)
        RequestRecords(self.connection, self.settings).submit(
            id, model, orjson.dumps(body), options
        )
        return id

    async def run(self, id: str, relay: Relay | None = None) -> list[RunResult]:
        """Run the request as its task is retried, until it is over."""
        results: list[RunResult] = []
        while not results or results[-1].state == "retry":
            assert len(results) < MAX_RUNS, "the request is retried for ever"
            results.append(await (relay or self.relay).run(id))
            await asyncio.sleep(min(results[-1].countdown_s, 0.05))
        return results

    async def end(self, id: str, relay: Relay | None = None) -> dict[str, Any]:
        """Run the request; returns the data of its last event."""
        await self.run(id, relay)
        return self.events(id)[-1].data

    def events(self, id: str) -> list[Event]:
        """The log of the request."""
        entries = self.connection.xrange(self.settings.keys.request(id).log)
        events = [decode(fields[b"d"]) for _, fields in entries]
        assert [event.n for event in events] == list(range(1, len(events) + 1))
        return events

    def record(self, id: str) -> dict[str, str]:
        """The record of the request."""
        stored = self.connection.hgetall(self.settings.keys.request(id).meta)
        return {name.decode(): value.decode() for name, value in stored.items()}

    def text(self, id: str) -> str:
        """The visible text of the request."""
        return (self.connection.get(self.settings.keys.request(id).text) or b"").decode()

    async def close(self) -> None:
        for api in self._apis:
            await api.close()
        self.connection.close()
        await self._async.aclose()


def on_stage(
    server: EmbeddedRedis,
    test: Callable[[RelayStage], Awaitable[T]],
    *answers: Answer,
    **settings: Any,
) -> T:
    """Run a test with an API that gives these answers."""

    async def run() -> T:
        async with raw_api(*answers) as api:
            stage = RelayStage(server, api, **settings)
            try:
                return await test(stage)
            finally:
                await stage.close()

    return asyncio.run(run())
