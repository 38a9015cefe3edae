"""A publisher over a scripted Redis, in virtual time, with the streams that a test asks for."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from penstock.ids import new_id
from tasks.streams.publish import publisher as module
from tasks.streams.publish.outbox import Outbox
from tasks.streams.publish.publisher import Publisher
from tasks.streams.publish.script_pipeline import ScriptPipeline
from tests.unit.tasks.streams.publish.outbox_calls import DEPLOYMENT, add, text
from tests.unit.tasks.streams.publish.scripted_redis import ScriptedRedis
from tests.unit.tasks.streams.publish.virtual_time import run_in_virtual_time, virtual_time

T = TypeVar("T")

#: With 3 renewals for each lease, in 8 groups: one group is renewed each second.
LEASE_MS = 24_000
#: Until a round trip without a reply has failed.
TIMEOUT_S = 5.0


class Stage:
    """The publisher and its streams."""

    def __init__(self, streams: int) -> None:
        self.redis = ScriptedRedis()
        connection: Any = self.redis
        self.deaths: list[str] = []  #: why the process would have ended
        self.publisher = Publisher(
            ScriptPipeline(connection, timeout_s=TIMEOUT_S),
            DEPLOYMENT,
            lease_ms=LEASE_MS,
            on_dead=self.deaths.append,
        )
        self.interrupted: list[str] = []  #: the id of a stream, for each interrupt
        self.boxes = [self.add_stream() for _ in range(streams)]
        self.box = self.boxes[0]

    def add_stream(self) -> Outbox:
        """Watch one more stream, whose last event has number 10."""
        box = Outbox(DEPLOYMENT, new_id(), worker="w", epoch=3, n=10, ttl_s=600, retention_s=60)
        self.publisher.watch(box, lambda: self.interrupted.append(box.id))
        return box

    def write(self, *pieces: str, box: Outbox | None = None) -> None:
        """Add a text to a stream for each piece, and have it written."""
        box = box or self.box
        for piece in pieces:
            add(box, text(piece))
        self.publisher.notify(box)

    async def seconds(self, count: float) -> None:
        """Let this virtual time pass."""
        await asyncio.sleep(count)


def on_stage(
    monkeypatch: pytest.MonkeyPatch, test: Callable[[Stage], Awaitable[T]], streams: int = 1
) -> T:
    """Run a test with a publisher that has been started."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=virtual_time))

    async def run() -> T:
        stage = Stage(streams)
        stage.publisher.start()
        return await test(stage)

    return run_in_virtual_time(run)
