"""Injects every kind of fault under random streams, and compares every character.

``python -m tests.chaos.run --streams 1000`` runs real processes: a Redis, the API simulator and
stream workers. Exit code 0 means that nothing was lost, doubled or hung.
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
from penstock.store.connection import connect_async
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
    """Size and duration of a run."""

    streams: int = 1000
    seed: int = 0
    minutes: float = 20.0  #: no further stream is started after this
    workers: int = 3
    at_once: int = 40
    readers: int = 20
    every_s: float = 2.0  #: average seconds between two faults
    timeout_s: float = 90.0  #: a stream that has not ended after this counts as hung
    lose: int = 0  #: maximum bytes that a killed Redis loses, as in a power failure
    keep: str = ""  #: folder for the workers' logs
    kinds: str = "basic"  #: of trouble, separated by commas: see `tests.chaos.agent.KINDS`; or all


@dataclass(slots=True)
class Tally:
    """Counts of what happened."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    def show(self) -> str:
        """Format as a table."""
        lines = [f"{count:>9,}  {name}" for name, count in sorted(self.counts.items())]
        lines += ["  -- faults requested of the API"]
        lines += [f"{count:>9,}  {name}" for name, count in sorted(self.asked.items())]
        lines += ["  -- faults injected by the agent"]
        lines += [f"{count:>9,}  {name}" for name, count in sorted(self.done.items())]
        return "\n".join(lines)


class Run:
    """One run."""

    def __init__(self, world: World, options: Options) -> None:
        self._world = world
        self._options = options
        self._rng = Random(options.seed)
        self._client = Client(world.redis.url, redis_timeout_s=4.0)
        self._keys = Keys()
        self._connection: Any = connect_async(self._client.settings)
        self._listeners: list[Listener] = []
        self.tally = Tally()

    async def go(self) -> Tally:
        """Run all streams while faults are injected."""
        options = self._options
        agent = Agent(
            self._world,
            Random(options.seed + 1),
            every_s=options.every_s,
            lose=options.lose,
            kinds=options.kinds,
        )
        self._listeners = [Listener(self._world.redis.url) for _ in range(4)]
        chaos = asyncio.create_task(agent.run())
        until = time.monotonic() + options.minutes * 60
        slots = asyncio.Semaphore(options.at_once)
        async with asyncio.TaskGroup() as group:
            for number in range(options.streams):
                await slots.acquire()
                if time.monotonic() > until:
                    slots.release()
                    break
                plan = plans.random_plan(self._rng, number)
                group.create_task(self._one(plan, slots))
            group.create_task(self._stop_faults(agent, chaos))
        await self._close(agent)
        return self.tally

    async def _stop_faults(self, agent: Agent, chaos: "asyncio.Task[None]") -> None:
        """Stop the faults shortly after the last stream has started, so that all can end."""
        await asyncio.sleep(5)
        agent.stop()
        await chaos

    async def _close(self, agent: Agent) -> None:
        self.tally.done = agent.done
        self.tally.faults += [f"in the agent: {line}" for line in agent.complaints]
        taken = self.tally.counts["workers lost over a stream"]
        if taken and agent.workers_lived:
            self.tally.faults.append(f"{taken} streams were taken from living workers")
        dead = [worker.name for worker in self._world.workers if not worker.alive]
        if dead:
            self.tally.faults.append(f"workers ended by themselves: {dead}")
        await self._close_connections()

    async def _close_connections(self) -> None:
        for listener in self._listeners:
            self.tally.counts["messages received"] += listener.messages
            self.tally.counts["subscriptions cut"] += listener.cuts
            await listener.close()
        await self._connection.aclose()
        self._client.close()
        for line in Counter(self._world.complaints()):
            self.tally.faults.append(f"in a worker's log: {line}")

    async def _one(self, plan: StreamPlan, slots: asyncio.Semaphore) -> None:
        try:
            started = time.monotonic()
            id = await self._enqueue(plan)
            problem = await self._follow(plan, id)
            slowest = self.tally.counts["slowest stream, ms"]
            took = int((time.monotonic() - started) * 1000)
            self.tally.counts["slowest stream, ms"] = max(slowest, took)
            if problem:
                prompt = plan.body["messages"][0]["content"]
                text = f"stream {plan.number} {id} ({', '.join(plan.faults)}): {problem}; {prompt}"
                self.tally.faults.append(text)
                say(f"WRONG {text}")
        finally:
            slots.release()
            self.tally.counts["streams"] += 1
            self.tally.asked.update(plan.faults or ("none",))
            if self.tally.counts["streams"] % 100 == 0:
                say(f"{self.tally.counts['streams']} streams")

    async def _enqueue(self, plan: StreamPlan) -> str:
        while True:
            try:
                request = await asyncio.to_thread(
                    self._client.messages.enqueue, on_interrupt=plan.on_interrupt, **plan.body
                )
            except (PenstockError, *UNAVAILABLE):
                self.tally.counts["enqueues refused and retried"] += 1
                await asyncio.sleep(0.3)
            else:
                return request.id

    async def _follow(self, plan: StreamPlan, id: str) -> str:
        """Run a stream's readers to its end; returns what is wrong, or an empty string."""
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
        disturbing = asyncio.create_task(self._disturb(plan, id))
        tasks = [asyncio.create_task(reader.run()) for reader in readers]
        await asyncio.wait(tasks, timeout=self._options.timeout_s)
        for task in [*tasks, disturbing]:
            task.cancel()
        results = await asyncio.gather(*tasks, disturbing, return_exceptions=True)
        for listener in self._listeners:
            listener.close_channel(keys.events)
        errors = [repr(each) for each in results if isinstance(each, Exception)]
        truth = await asyncio.to_thread(self._truth, plan)
        ended = await self._ended(keys)
        try:
            findings = check_stream(plan, truth, ended, readers)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return f"a reader cannot build the message: {error!r}"
        self.tally.counts.update(findings.counts)
        return "; ".join([*errors, *findings.faults])

    async def _disturb(self, plan: StreamPlan, id: str) -> None:
        """Cancel the stream or send its wake-up twice, as planned."""
        if plan.doubled:
            await asyncio.sleep(self._rng.uniform(0, 1))
            self.tally.counts["wake-ups sent twice"] += 1
            await self._retry(self._client.wakeups.stream, id, str(plan.body["model"]))
        if plan.cancel_after_s is not None:
            await asyncio.sleep(plan.cancel_after_s)
            self.tally.counts["cancels requested"] += 1
            await self._retry(lambda: self._client.messages.request(id).cancel("chaos"))

    async def _retry(self, act: Any, *args: Any) -> None:
        while True:
            try:
                await asyncio.to_thread(act, *args)
            except (PenstockError, *UNAVAILABLE):
                await asyncio.sleep(0.3)
            else:
                return

    def _truth(self, plan: StreamPlan) -> list[dict[str, Any]]:
        """The complete answer, from the simulator itself."""
        body = json.dumps(plans.without_faults(plan.body)).encode()
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
    """Run everything, and keep the workers' logs if requested."""
    with World(options.workers) as world:
        tally = asyncio.run(Run(world, options).go())
        if options.keep and tally.faults:
            keep_logs(world, options.keep)
    return tally


def main() -> int:
    """Run the command; returns the exit code."""
    options = options_of(Options(), "tests.chaos.run", __doc__)
    tally = run(options)
    say(tally.show())
    return report(tally.faults, options.seed, "nothing lost, doubled or hung")


if __name__ == "__main__":
    sys.exit(main())
