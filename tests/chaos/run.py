"""Break everything that can break under random streams, and compare every character.

``python -m tests.chaos.run --streams 1000`` runs real processes: a Redis, the API simulator and
streams workers. Exit code 0 says that nothing was lost, doubled or hung.
"""

import asyncio
import json
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from penstock.client import Client
from penstock.errors import PenstockError
from penstock.keys import Keys, RequestKeys
from penstock.store.connection import Connection, connect_async
from tests.chaos import plans
from tests.chaos.agent import Agent
from tests.chaos.checks import Ended, check_stream
from tests.chaos.command import keep_logs, options_of, report, say
from tests.chaos.listener import Listener
from tests.chaos.plans import StreamPlan
from tests.chaos.readers import UNAVAILABLE, Habits, Reader
from tests.chaos.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much, and for how long."""

    streams: int = 1000
    seed: int = 0
    minutes: float = 20.0  #: no further stream is begun after this
    workers: int = 3
    at_once: int = 40
    readers: int = 20
    every_s: float = 2.0  #: between two acts of chaos
    timeout_s: float = 90.0  #: a stream that has not ended after this counts as hung
    lose: int = 0  #: a killed Redis loses up to so many bytes, as in a power cut
    keep: str = ""  #: folder for the workers' logs


@dataclass(slots=True)
class Tally:
    """What happened."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    def show(self) -> str:
        """As a table."""
        lines = [f"{count:>9,}  {name}" for name, count in sorted(self.counts.items())]
        lines += ["  -- faults of the API asked for"]
        lines += [f"{count:>9,}  {name}" for name, count in sorted(self.asked.items())]
        lines += ["  -- what the agent did"]
        lines += [f"{count:>9,}  {name}" for name, count in sorted(self.done.items())]
        return "\n".join(lines)


class Run:
    """One run over a world."""

    def __init__(self, world: World, options: Options) -> None:
        self._world = world
        self._options = options
        self._rng = Random(options.seed)
        self._client = Client(world.redis.url, redis_timeout_s=4.0)
        self._keys = Keys()
        self._connection: Connection = connect_async(self._client.settings)
        self._listeners: list[Listener] = []
        self.tally = Tally()

    async def go(self) -> Tally:
        """Run all streams under chaos."""
        options = self._options
        agent = Agent(
            self._world, Random(options.seed + 1), every_s=options.every_s, lose=options.lose
        )
        self._listeners = [Listener(self._world.redis.port) for _ in range(4)]
        chaos = asyncio.create_task(agent.run())
        until = time.monotonic() + options.minutes * 60
        free = asyncio.Semaphore(options.at_once)
        async with asyncio.TaskGroup() as group:
            for number in range(options.streams):
                await free.acquire()
                if time.monotonic() > until:
                    free.release()
                    break
                asked = plans.random_plan(self._rng, number)
                group.create_task(self._one(asked, free))
            group.create_task(self._quiet(agent, chaos))
        await self._close(agent)
        return self.tally

    async def _quiet(self, agent: Agent, chaos: "asyncio.Task[None]") -> None:
        """Chaos goes on until the last streams are under way; then the rest must end."""
        await asyncio.sleep(5)
        agent.stop()
        await chaos

    async def _close(self, agent: Agent) -> None:
        for listener in self._listeners:
            self.tally.counts["messages heard"] += listener.messages
            self.tally.counts["subscriptions cut"] += listener.cuts
            await listener.close()
        await self._connection.aclose()
        self._client.close()
        self.tally.done = agent.done
        for line in Counter([*agent.complaints, *self._world.complaints()]):
            self.tally.faults.append(f"in a worker's log: {line}")

    async def _one(self, asked: StreamPlan, free: asyncio.Semaphore) -> None:
        try:
            started = time.monotonic()
            id = await self._enqueue(asked)
            problem = await self._follow(asked, id)
            slowest = self.tally.counts["slowest stream, ms"]
            took = int((time.monotonic() - started) * 1000)
            self.tally.counts["slowest stream, ms"] = max(slowest, took)
            if problem:
                text = f"stream {asked.number} {id} ({', '.join(asked.faults)}): {problem}"
                self.tally.faults.append(text)
                say(f"WRONG {text}")
        finally:
            free.release()
            self.tally.counts["streams"] += 1
            self.tally.asked.update(asked.faults or ("none",))
            if self.tally.counts["streams"] % 100 == 0:
                say(f"{self.tally.counts['streams']} streams")

    async def _enqueue(self, asked: StreamPlan) -> str:
        while True:
            try:
                request = await asyncio.to_thread(
                    self._client.messages.enqueue, on_interrupt=asked.on_interrupt, **asked.body
                )
            except (PenstockError, *UNAVAILABLE):
                self.tally.counts["enqueues refused, tried again"] += 1
                await asyncio.sleep(0.3)
            else:
                return request.id

    async def _follow(self, asked: StreamPlan, id: str) -> str:
        """Run the readers of a stream to its end; returns what is wrong."""
        keys = self._keys.request(id)
        readers = [
            Reader(
                keys,
                self._connection,
                self._rng.choice(self._listeners),
                Habits.random(self._rng),
                Random(self._rng.random()),
            )
            for _ in range(self._options.readers)
        ]
        meddling = asyncio.create_task(self._meddle(asked, id))
        tasks = [asyncio.create_task(reader.run()) for reader in readers]
        await asyncio.wait(tasks, timeout=self._options.timeout_s)
        for task in [*tasks, meddling]:
            task.cancel()
        broken = await asyncio.gather(*tasks, meddling, return_exceptions=True)
        for listener in self._listeners:
            listener.close_channel(keys.events)
        errors = [repr(each) for each in broken if isinstance(each, Exception)]
        truth = await asyncio.to_thread(self._truth, asked)
        findings = check_stream(asked, truth, await self._ended(keys), readers)
        self.tally.counts.update(findings.counts)
        return "; ".join([*errors, *findings.faults])

    async def _meddle(self, asked: StreamPlan, id: str) -> None:
        """Cancel the stream, or wake it twice, as planned."""
        if asked.doubled:
            await asyncio.sleep(self._rng.uniform(0, 1))
            self.tally.counts["wake-ups sent twice"] += 1
            await self._insist(self._client.wakeups.stream, id, str(asked.body["model"]))
        if asked.cancel_after_s is not None:
            await asyncio.sleep(asked.cancel_after_s)
            self.tally.counts["cancels asked for"] += 1
            await self._insist(lambda: self._client.messages.request(id).cancel("chaos"))

    async def _insist(self, act: Any, *args: Any) -> None:
        while True:
            try:
                await asyncio.to_thread(act, *args)
            except (PenstockError, *UNAVAILABLE):
                await asyncio.sleep(0.3)
            else:
                return

    def _truth(self, asked: StreamPlan) -> list[dict[str, Any]]:
        """The whole answer, from the simulator itself."""
        body = json.dumps(plans.without_faults(asked.body)).encode()
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        url = f"{self._world.simulator.url}/v1/messages"
        call = urllib.request.Request(url, body, headers)  # noqa: S310 - our own address
        with urllib.request.urlopen(call, timeout=30) as answer:  # noqa: S310
            content: list[dict[str, Any]] = json.load(answer)["content"]
        return content

    async def _ended(self, keys: RequestKeys) -> Ended:
        while True:
            try:
                log = await self._connection.xrange(keys.log)
                text = await self._connection.get(keys.text)
                meta = await self._connection.hgetall(keys.meta)
            except UNAVAILABLE:
                await asyncio.sleep(0.2)
            else:
                return Ended(
                    [fields[b"d"] for _, fields in log],
                    (text or b"").decode(),
                    {name.decode(): value.decode() for name, value in meta.items()},
                )


def run(options: Options) -> Tally:
    """Run it, and keep the workers' logs if that was asked for."""
    with World(options.workers) as world:
        tally = asyncio.run(Run(world, options).go())
        if options.keep and tally.faults:
            keep_logs(world, options.keep)
    return tally


def main() -> int:
    """The command."""
    options = options_of(Options(), "tests.chaos.run", __doc__)
    tally = run(options)
    say(tally.show())
    return report(tally.faults, options.seed, "nothing lost, doubled or hung")


if __name__ == "__main__":
    sys.exit(main())
