"""Runs many streams at once, some of them malformed, and compares every good one exactly.

``python -m tests.chaos.malformed_run --streams 1000`` runs a Redis, the API simulator and stream
workers with production's limits. Exit code 0 means: every good stream arrived exactly, every
malformed one ended after a bounded number of calls, and the workers stopped when asked to.
"""

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from penstock.simulator.control import Control
from tests.chaos import malformed_plans, run
from tests.chaos.command import keep_logs, options_of, report, say
from tests.chaos.listener import Listener
from tests.chaos.plans import StreamPlan
from tests.chaos.run import Run, Tally
from tests.chaos.world import MalformedWorld


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(run.Options):
    """Size and duration of a run."""

    workers: int = 2
    readers: int = 3
    share: int = 10  #: one stream in so many is malformed


class MalformedRun(Run):
    """One run, without faults of Redis and of workers."""

    def __init__(self, world: MalformedWorld, options: Options) -> None:
        super().__init__(world, options)
        self._soak = world
        self._share = options.share
        self._keep = options.keep
        self._plans: list[StreamPlan] = []

    async def go(self) -> Tally:
        """Run all streams."""
        options = self._options
        self._listeners = [Listener(self._world.redis.url) for _ in range(2)]
        until = time.monotonic() + options.minutes * 60
        slots = asyncio.Semaphore(options.at_once)
        async with asyncio.TaskGroup() as group:
            for number in range(options.streams):
                await slots.acquire()
                if time.monotonic() > until:
                    slots.release()
                    break
                plan = malformed_plans.random_plan(self._rng, number, share=self._share)
                self._plans.append(plan)
                group.create_task(self._one(plan, slots))
        await self._check_calls()
        await self._check_shutdown()
        await self._close_connections()
        return self.tally

    async def _check_calls(self) -> None:
        """Compare the calls for each malformed stream with its bound."""
        control = Control(self._world.simulator.url)
        requests = await asyncio.to_thread(control.requests, 1_000_000)
        calls = Counter(
            each["body"]["messages"][0]["content"]
            for each in requests
            if isinstance(each["body"], dict) and each["body"].get("stream")
        )
        for plan in self._plans:
            made = calls[plan.body["messages"][0]["content"]]
            self.tally.counts["calls"] += made
            if plan.malformed:
                self.tally.counts["malformed streams"] += 1
                self.tally.counts["calls for malformed streams"] += made
            if plan.max_calls and made > plan.max_calls:
                words = f"{made} calls, {plan.max_calls} allowed"
                self.tally.faults.append(f"stream {plan.number} ({plan.faults[0]}): {words}")

    async def _check_shutdown(self) -> None:
        """Stop the workers as an operator does; they must end and leave no lease."""
        if self._keep:
            keep_logs(self._soak, self._keep)
        for worker in list(self._soak.workers):
            self._soak.note(worker)
            code = await asyncio.to_thread(worker.stop, timeout=30)
            self._soak.workers.remove(worker)
            if code:
                self.tally.faults.append(f"worker {worker.name} ended with {code} after SIGTERM")
        leases: list[Any] = [key async for key in self._connection.scan_iter(match="*lease*")]
        if leases:
            self.tally.faults.append(f"leases left: {leases[:5]}")


def run_streams(options: Options) -> Tally:
    """Run everything, and keep the workers' logs if requested."""
    with MalformedWorld(options.workers) as world:
        return asyncio.run(MalformedRun(world, options).go())


def main() -> int:
    """Run the command; returns the exit code."""
    options = options_of(Options(), "tests.chaos.malformed_run", __doc__)
    tally = run_streams(options)
    say(tally.show())
    return report(tally.faults, options.seed, "every good stream exact, every other one bounded")


if __name__ == "__main__":
    sys.exit(main())
