"""Kill a batch worker at every point of a job's life, and count every line and every payment.

``python -m tests.chaos.batch_run --times 20`` first runs jobs without kills, to find out which
points there are (`tests.chaos.points`). Then, at each point and as often as ``--times`` says, a
worker is killed with SIGKILL while jobs run, some of whose create calls lose their response. The
simulator counts what was paid for. ``--trouble`` runs jobs under random faults instead: workers
that are killed, frozen and terminated, a Redis that is killed or frozen, messages that are lost and
duplicated.
"""

import asyncio
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from penstock.batches.notices import PauseReason
from penstock.batches.view import Notice
from penstock.client import Client
from penstock.errors import NotEnded, PenstockError
from penstock.simulator.control import Control
from tests.chaos.agent import Agent
from tests.chaos.batch_jobs import (
    JobPlan,
    accept_too_large,
    job_faults,
    job_plan,
    payment_faults,
)
from tests.chaos.command import keep_logs, options_of, report, say
from tests.chaos.readers import UNAVAILABLE
from tests.chaos.world import BatchWorld

#: Create calls that lose their response, some before and some after the batch was created.
_CREATE_FAULTS: tuple[dict[str, Any], ...] = (
    {"commit_then_drop": True},
    {"commit_then_drop": True, "reset": True},
    {"commit_then_status": 529},
    {"drop_before_commit": True},
    {"drop_before_commit": True, "commit_after_s": 0.7},
    {"status": 429, "retry_after": 0.3, "path": "/v1/messages/batches", "method": "POST"},
    {"status": 413, "path": "/v1/messages/batches", "method": "POST"},
)
#: Downloads that are interrupted, or have too few or too many lines.
_RESULTS_FAULTS: tuple[dict[str, Any], ...] = (
    {"results_cut": 700},
    {"results_end": 2},
    {"results_skip": 0},
    {"results_double": 0},
    {"results_foreign": 1},
    {"results_lag": True},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run does, and for how long."""

    times: int = 20  #: kills at each point
    seed: int = 0
    workers: int = 3
    at_once: int = 12  #: jobs that run at the same time
    trouble: int = 0  #: number of jobs to run under random faults instead
    kinds: str = "basic"  #: of trouble with ``--trouble``: see `tests.chaos.agent.KINDS`; or all
    only: str = ""  #: only points whose name contains one of these, separated by commas
    points: int = 0  #: maximum number of points, drawn at random; 0: all
    job_timeout_s: float = 120.0  #: a job that has not ended after this counts as hung
    minutes: float = 30.0  #: no job is started after this
    keep: str = ""  #: folder for the workers' logs


@dataclass(slots=True)
class Tally:
    """What happened in a run."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)

    def wrong(self, text: str) -> None:
        """Note a fault and print it at once."""
        self.faults.append(text)
        say(f"WRONG {text}")


class Run:
    """One run in a deployment of its own."""

    def __init__(self, world: BatchWorld, options: Options) -> None:
        self._world = world
        self._options = options
        self._rng = Random(options.seed)
        self._client = Client(world.redis.url, redis_timeout_s=4.0)
        self._control = Control(world.simulator.url)
        self._jobs = 0
        self._until = time.monotonic() + options.minutes * 60
        self.tally = Tally()

    async def go(self) -> Tally:
        """Run until all is done or the time is up."""
        try:
            if self._options.trouble:
                await self._random_faults()
            else:
                await self._kills()
        finally:
            self._client.close()
        for line in Counter(self._world.complaints()):
            self.tally.wrong(f"in a worker's log: {line}")
        return self.tally

    async def _kills(self) -> None:
        await self._batch_of_jobs(max(4, self._options.at_once // 2))
        points = self._points()
        say(f"{len(points)} points")
        tickets = Counter(dict.fromkeys(points, self._options.times))
        while tickets and time.monotonic() < self._until:
            # One ticket for a point at a time; points with the most kills left come first.
            batch = [name for name, _ in tickets.most_common(self._options.workers * 4)]
            tickets = +(tickets - Counter(batch))
            for name in batch:
                (self._world.tickets / name).write_text(str(self._rng.choice((0, 0, 1, 2, 5))))
            await self._batch_of_jobs(self._options.at_once)
            for name in batch:
                left = self._world.tickets / name
                used = not left.exists()
                left.unlink(missing_ok=True)
                self.tally.kills[name] += used
            say(f"{self.tally.counts['jobs']} jobs, {self.tally.kills.total()} kills")
        self.tally.counts["points"] = len(points)
        self.tally.counts["points at which a worker died"] = len(+self.tally.kills)

    def _points(self) -> list[str]:
        names = sorted(path.name for path in self._world.points.iterdir())
        wanted = self._options.only.split(",")
        names = [name for name in names if any(part in name for part in wanted)]
        count = self._options.points
        return self._rng.sample(names, count) if 0 < count < len(names) else names

    async def _random_faults(self) -> None:
        options = self._options
        agent = Agent(
            self._world, Random(options.seed + 1), every_s=1.5, lose=0, kinds=options.kinds
        )
        chaos = asyncio.create_task(agent.run())
        left = options.trouble
        while left > 0 and time.monotonic() < self._until:
            count = min(left, options.at_once)
            await self._batch_of_jobs(count)
            left -= count
            say(f"{self.tally.counts['jobs']} jobs")
        agent.stop()
        await chaos
        self.tally.counts.update(agent.done)
        for line in Counter(agent.complaints):
            self.tally.wrong(f"in a worker's log: {line}")

    async def _batch_of_jobs(self, count: int) -> None:
        """Run jobs to their end, and replace workers that die."""
        plans = [self._plan() for _ in range(count)]
        self._plan_api_faults()
        replacing = asyncio.create_task(self._replace_the_dead())
        jobs = [asyncio.create_task(self._job(plan)) for plan in plans]
        await asyncio.gather(*jobs)
        replacing.cancel()
        with suppress(asyncio.CancelledError):
            await replacing
        paid = await asyncio.to_thread(self._control.paid)
        for plan in plans:
            for fault in payment_faults(plan, paid):
                self.tally.wrong(fault)
            self.tally.counts["requests"] += len(plan.requests)
        self.tally.counts["requests paid"] += sum(sum(each.values()) for each in paid.values())
        await asyncio.to_thread(self._control.reset)

    def _plan(self) -> JobPlan:
        self._jobs += 1
        return job_plan(self._rng, self._jobs)

    def _plan_api_faults(self) -> None:
        """Let some of the next create calls and downloads fail."""
        for fault in _CREATE_FAULTS:
            self._control.fault(**fault, after=self._rng.randrange(4))
        for fault in _RESULTS_FAULTS:
            self._control.fault(**fault, after=self._rng.randrange(6))

    async def _job(self, plan: JobPlan) -> None:
        try:
            id = await self._submit(plan)
            state = await self._ended(id)
            lines = await self._results(id)
        except TimeoutError as error:
            self.tally.wrong(f"job {plan.number}: {error}")
            return
        rejected = accept_too_large(plan, lines)
        if rejected:
            self.tally.counts["requests rejected as too large"] += rejected
        for fault in job_faults(plan, state, lines):
            self.tally.wrong(f"job {plan.number} {id}: {fault}")
        self.tally.counts["jobs"] += 1
        await self._until_available(lambda: self._client.messages.batches.delete(id))

    async def _submit(self, plan: JobPlan) -> str:
        def create() -> str:
            batches = self._client.messages.batches
            return batches.create(requests=plan.requests, shard_requests=plan.shard_requests).id

        return str(await self._until_available(create))

    async def _ended(self, id: str) -> str:
        deadline = time.monotonic() + self._options.job_timeout_s
        while time.monotonic() < deadline:
            job = await self._until_available(lambda: self._client.messages.batches.retrieve(id))
            if job.paused:
                self._note_pause(id, job.paused)
                await self._until_available(lambda: self._client.messages.batches.resume(id))
            if job.state.ended:
                return str(job.state)
            await asyncio.sleep(0.2)
        job = await self._until_available(lambda: self._client.messages.batches.retrieve(id))
        raise TimeoutError(f"{id} hangs: {[(s.number, s.state) for s in job.shards]}")

    def _note_pause(self, id: str, reason: Notice) -> None:
        if reason.type == PauseReason.REQUEST_TOO_LARGE:
            self.tally.counts["batches that were split"] += 1
        else:
            self.tally.wrong(f"{id} is paused: {reason}")

    async def _results(self, id: str) -> list[bytes]:
        found: list[bytes] = await self._until_available(
            lambda: list(self._client.messages.batches.result_lines(id))
        )
        return found

    async def _until_available(self, act: Any) -> Any:
        """Do it, again and again until Redis is available."""
        while True:
            try:
                return await asyncio.to_thread(act)
            except NotEnded:
                raise
            except (PenstockError, *UNAVAILABLE):
                await asyncio.sleep(0.3)

    async def _replace_the_dead(self) -> None:
        while True:
            self.tally.counts["workers that died"] += self._world.replace_the_dead()
            await asyncio.sleep(0.2)


def run(options: Options) -> Tally:
    """Run it, and keep the workers' logs after a fault if the options say so."""
    with BatchWorld(options.workers) as world:
        tally = asyncio.run(Run(world, options).go())
        if options.keep and tally.faults:
            keep_logs(world, options.keep)
    return tally


def main() -> int:
    """Run the command; returns its exit code."""
    options = options_of(Options(), "tests.chaos.batch_run", __doc__)
    tally = run(options)
    for name, count in sorted(tally.kills.items()):
        say(f"{count:>9,}  killed at: {name}")
    for name, count in sorted(tally.counts.items()):
        say(f"{count:>9,}  {name}")
    return report(tally.faults, options.seed, "every line once, every request paid once")


if __name__ == "__main__":
    sys.exit(main())
