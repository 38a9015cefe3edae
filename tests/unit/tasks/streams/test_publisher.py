"""Publisher: the tasks that it starts are held until they are done."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

from penstock.ids import new_id
from penstock.store.scripts import ScriptCall
from tasks.streams.outbox import Outbox
from tasks.streams.publisher import Publisher
from tests.unit.tasks.streams.outbox_calls import DEPLOYMENT


class StalledPipeline:
    """A pipeline whose replies are outstanding; it holds none of the coroutines that wait."""

    def __init__(self) -> None:
        self.outstanding: list[weakref.ref[asyncio.Future[list[Any]]]] = []
        self.asked = asyncio.Semaphore(0)

    async def run(self, _: Sequence[ScriptCall[Any]]) -> list[Any]:
        reply: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.outstanding.append(weakref.ref(reply))
        self.asked.release()
        return await reply


def test_every_check_of_a_cancel_flag_is_kept_until_redis_has_answered() -> None:
    async def check_two() -> list[str]:
        stalled: Any = StalledPipeline()
        publisher = Publisher(stalled, DEPLOYMENT, lease_ms=5_000)
        boxes = [
            Outbox(DEPLOYMENT, new_id(), worker="w", epoch=1, n=1, ttl_s=60, retention_s=60)
            for _ in range(2)
        ]
        interrupted = asyncio.Semaphore(0)
        for box in boxes:
            publisher.watch(box, interrupted.release)
            publisher.check_cancel(box.id)
        for _ in boxes:
            await stalled.asked.acquire()
        gc.collect()
        for waiting in stalled.outstanding:
            reply = waiting()
            assert reply is not None, "the task of a check was collected while it waited"
            reply.set_result([[b"ok", b"alice", 1]])
        for _ in boxes:
            await interrupted.acquire()
        return [box.cancel for box in boxes]

    assert asyncio.run(check_two()) == ["alice", "alice"]
