"""Readers that follow one stream by the protocol, and lose messages on purpose.

subscribe → acknowledgement → snapshot or log → live. An unexpected number: read the log again.
"""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson
import redis.exceptions

from penstock.events import END, HEARTBEAT
from penstock.keys import RequestKeys
from tests.chaos.listener import REFILL, Listener, Queue

#: Errors after which a call is retried: Redis may have been killed, or be loading.
UNAVAILABLE = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    OSError,
    # It refuses for a while; in a transaction it then refuses reads, too.
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.ExecAbortError,
)
SILENCE_S = 3.0


@dataclass(slots=True)
class Habits:
    """How unreliable a reader is."""

    joins_after_s: float = 0.0
    drops: float = 0.0  #: share of published messages that it drops
    leaves: float = 0.0  #: share of messages after which it disconnects for a while
    snapshot: bool = False  #: joins with a snapshot of the text instead of reading the log

    @classmethod
    def random(cls, rng: Random) -> "Habits":
        """Random habits."""
        return cls(
            joins_after_s=rng.choice((0.0, 0.0, rng.uniform(0, 4))),
            drops=rng.choice((0.0, 0.0, 0.05, 0.3)),
            leaves=rng.choice((0.0, 0.0, 0.02)),
            snapshot=rng.random() < 0.15,
        )


class Disconnected(Exception):
    """The reader disconnects for a while."""


@dataclass(slots=True)
class Reader:
    """One reader of one stream."""

    keys: RequestKeys
    connection: Any
    listener: Listener
    habits: Habits
    rng: Random
    received: list[bytes] = field(default_factory=list)  #: every event as received
    epoch: int = 0
    n: int = 0
    joined_at: int = 0  #: number of the last event that the snapshot covered
    text: str | None = None  #: the snapshot's text
    ended: bool = False
    dropped: int = 0
    refills: int = 0
    resumes: int = 0
    regressions: int = 0  #: a later epoch began before our last event: Redis lost events for good

    async def run(self) -> None:
        """Follow until the last event; reconnects when a connection is cut."""
        await asyncio.sleep(self.habits.joins_after_s)
        while not self.ended:
            queue = await self.listener.listen(self.keys.events)
            try:
                await self._join()
                await self._refill()
                while not self.ended:
                    await self._live(queue)
            except Disconnected:
                self.resumes += 1
            except UNAVAILABLE:
                await asyncio.sleep(0.1)
            finally:
                self.listener.unlisten(self.keys.events, queue)
            if not self.ended:
                await asyncio.sleep(self.rng.uniform(0, 0.5))

    async def _join(self) -> None:
        if not self.habits.snapshot or self.n:
            return
        async with self.connection.pipeline(transaction=True) as pipe:
            pipe.hmget(self.keys.meta, "epoch", "n", "state")
            pipe.get(self.keys.text)
            (epoch, n, state), text = await pipe.execute()
        if n is not None:
            self.epoch, self.n, self.joined_at = int(epoch), int(n), int(n)
            self.text = (text or b"").decode()
            self.ended = state in (b"done", b"failed", b"canceled")

    async def _refill(self) -> None:
        """Read the log after the last received event, in small pages."""
        self.refills += 1
        while not self.ended:
            after = f"({self.epoch}-{self.n}"
            page = await self.connection.xrange(self.keys.log, min=after, count=100)
            for _, fields in page:
                raw = fields[b"d"]
                self._record(raw, orjson.loads(raw))
            if len(page) < 100:
                return

    async def _live(self, queue: Queue) -> None:
        try:
            async with asyncio.timeout(SILENCE_S):
                raw = await queue.get()
        except TimeoutError:
            raw = REFILL
        if raw == REFILL:
            await self._refill()
            return
        if self.rng.random() < self.habits.drops:
            self.dropped += 1
            return
        if self.rng.random() < self.habits.leaves:
            raise Disconnected
        event = orjson.loads(raw)
        if event["e"] > self.epoch and event["n"] <= self.n and self.epoch:
            self.regressions += event["data"]["type"] != HEARTBEAT
        if event["n"] == self.n + 1 and event["data"]["type"] != HEARTBEAT:
            self._record(raw, event)
        elif event["n"] > self.n:
            await self._refill()

    def _record(self, raw: bytes, event: dict[str, Any]) -> None:
        self.received.append(raw)
        self.epoch, self.n = event["e"], event["n"]
        self.ended = event["data"]["type"] == END
