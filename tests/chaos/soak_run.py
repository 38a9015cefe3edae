"""Runs streams and jobs at a moderate load, and fails if memory, descriptors or keys grow.

``python -m tests.chaos.soak_run --minutes 12`` runs a Redis, the API simulator, stream workers and
a batch worker. It stops by itself within 15 minutes. It prints what each process and Redis use
before the load, at the start, in the middle and at the end of it, and at rest.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import redis

from penstock.client import Client
from penstock.errors import PenstockError, RequestCanceled, RequestFailed
from penstock.local.stack import WorkerProcess
from tests.chaos import malformed_plans
from tests.chaos.batch_jobs import job_plan
from tests.chaos.command import options_of, report, say
from tests.chaos.resources import Sample, growth, left_at_rest, process_sample, redis_sample
from tests.chaos.world import World

#: Maximum minutes of load: with the start and the rest, a run ends within 15.
MAX_MINUTES: Final = 12.0
RETENTION_S: Final = 15
#: Maximum seconds until everything has expired after the load.
REST_S: Final = 75.0
_WARM_UP_S: Final = 15.0  # with the same load
_EVERY_S: Final = 2.0  # between two samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Size and duration of a run."""

    minutes: float = MAX_MINUTES  #: of load
    streams: int = 10  #: that run at the same time
    jobs: int = 2  #: that run at the same time
    workers: int = 2
    seed: int = 0


class SoakWorld(World):
    """Stream workers that are never disturbed, one batch worker, and records that expire soon."""

    simulator_options = ("--batch-seconds", "0.4")

    @property
    def environment(self) -> dict[str, str]:
        """Production's limits, and lifetimes that end within the run."""
        changed = ("MAX_ATTEMPTS", "MAX_API_RETRIES", "LEASE_MS", "MAX_WORKER_LOSSES")
        kept = {k: v for k, v in super().environment.items() if not k.endswith(changed)}
        return {
            **kept,
            "PENSTOCK_STREAMS_CONCURRENCY": "8",
            "PENSTOCK_RETENTION_S": str(RETENTION_S),
            "PENSTOCK_BATCH_RETENTION_S": str(RETENTION_S),
            "PENSTOCK_POLL_INTERVAL_MIN_S": "0.2",
        }


@dataclass(slots=True)
class Load:
    """Streams and jobs, one after the other in each thread, until it is stopped."""

    client: Client
    options: Options
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> list[threading.Thread]:
        """Start the threads."""
        works = [self._stream] * self.options.streams + [self._job] * self.options.jobs
        threads = [
            threading.Thread(target=self._repeat, args=(work, number), name=f"load-{number}")
            for number, work in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _repeat(self, work: Callable[[Random, int], None], thread: int) -> None:
        rng, number = Random(self.options.seed * 1_000 + thread), thread
        while not self.stopped.is_set():
            try:
                work(rng, number)
            except (PenstockError, TimeoutError) as error:
                self.faults.append(f"{work.__name__} {number}: {type(error).__name__}: {error}")
            number += 1_000
            self.stopped.wait(rng.uniform(0, 0.2))

    def _stream(self, rng: Random, number: int) -> None:
        plan = malformed_plans.random_plan(rng, number, share=20)
        request = self.client.messages.enqueue(on_interrupt=plan.on_interrupt, **plan.body)
        if rng.random() < 0.05:
            request.cancel("soak")
        read: list[str] = []
        try:
            with request.stream(timeout=60) as stream:
                for piece in stream.text_stream:
                    read.append(piece)
                    if rng.random() < 0.002:
                        self.counts["readers that left"] += 1
                        return
        except (RequestCanceled, RequestFailed):
            self.counts["streams that failed or were canceled"] += 1
        else:
            self.counts["streams done"] += 1
            if "".join(read) != request.text():
                self.faults.append(f"stream {number}: a reader's text differs from the stored one")

    def _job(self, rng: Random, number: int) -> None:
        plan = job_plan(rng, number)
        batches = self.client.messages.batches
        job = batches.create(requests=plan.requests, shard_requests=plan.shard_requests)
        ended = batches.wait(job.id, timeout=120)
        lines = sum(1 for _ in batches.result_lines(job.id))
        if (str(ended.state), lines) != ("done", len(plan.requests)):
            self.faults.append(f"job {number} ended {ended.state} with {lines} lines")
        batches.delete(job.id)
        self.counts["jobs"] += 1


class Soak:
    """One run in a deployment of its own."""

    def __init__(self, world: SoakWorld, batch_worker: WorkerProcess, options: Options) -> None:
        self._options = options
        self._redis: Any = redis.Redis.from_url(world.redis.url)
        self._pids = {
            **{worker.name: worker.pid for worker in world.workers},
            "batches": batch_worker.pid,
            "redis": world.redis.pid,
            "simulator": world.simulator.pid,
            "client": os.getpid(),
        }
        self._world = world
        self.faults: list[str] = []

    def run(self) -> None:
        """Run the load, sample it, and compare."""
        minutes = min(self._options.minutes, MAX_MINUTES)
        client_settings = {"redis_timeout_s": 4.0, "retention_s": RETENTION_S}
        with Client(self._world.redis.url, **client_settings) as client:
            self._warm_up(client)
            idle = self._sample()
            show("before the load", idle)
            load = Load(client, self._options)
            threads = load.start()
            samples = self._under_load(minutes * 60)
            load.stopped.set()
            for thread in threads:
                thread.join()
            say(", ".join(f"{count} {name}" for name, count in sorted(load.counts.items())))
            self.faults += load.faults + growth(samples)
            rest = self._at_rest(idle)
            show("at rest", rest)
        self.faults += left_at_rest(idle, rest) + self._keys_without_ttl()
        self.faults += [f"in a worker's log: {line}" for line in Counter(self._world.complaints())]

    def _warm_up(self, client: Client) -> None:
        """Do everything once: the first time fills pools and caches."""
        first = Load(client, self._options)
        threads = first.start()
        first.stopped.wait(_WARM_UP_S)
        first.stopped.set()
        for thread in threads:
            thread.join()
        time.sleep(RETENTION_S + 5)

    def _under_load(self, seconds: float) -> list[Sample]:
        samples: list[Sample] = []
        wanted = {0.1: "at the start", 0.5: "in the middle", 0.99: "at the end"}
        began = time.monotonic()
        while (share := (time.monotonic() - began) / seconds) < 1:
            samples.append(self._sample())
            for at in [at for at in wanted if share >= at]:
                show(f"{wanted.pop(at)} of the load", samples[-1])
            time.sleep(min(_EVERY_S, seconds / 100))
        return samples

    def _at_rest(self, idle: Sample) -> Sample:
        """Return what is used once everything has expired, or after `REST_S`."""
        deadline = time.monotonic() + REST_S
        time.sleep(RETENTION_S)
        while left_at_rest(idle, found := self._sample()) and time.monotonic() < deadline:
            time.sleep(1)
        return found

    def _keys_without_ttl(self) -> list[str]:
        """Return a fault for the keys of records that never expire."""
        keys = [key.decode() for key in self._redis.scan_iter(count=1000)]
        kept = [key for key in keys if "{" in key and self._redis.ttl(key) == -1]
        return [f"{len(kept)} keys of records have no TTL: {kept[:5]}"] if kept else []

    def _sample(self) -> Sample:
        found = redis_sample(self._redis)
        for name, pid in self._pids.items():
            found |= process_sample(name, pid)
        return found


def show(moment: str, sample: Sample) -> None:
    """Print what is used at a moment, one process in a line."""
    say(f"-- {moment}")
    by_process: dict[str, list[str]] = {}
    for name, value in sample.items():
        process, _, what = name.partition(": ")
        by_process.setdefault(process, []).append(f"{value:,.0f} {what}")
    for process, figures in by_process.items():
        say(f"   {process:<18} {', '.join(figures)}")


def run(options: Options) -> list[str]:
    """Run everything; returns what is wrong."""
    with ExitStack() as stack:
        world = stack.enter_context(SoakWorld(options.workers))
        batches = WorkerProcess("batches", env=world.environment)
        stack.enter_context(batches)
        soak = Soak(world, batches, options)
        soak.run()
        return soak.faults


def main() -> int:
    """Run the command; returns the exit code."""
    options = options_of(Options(), "tests.chaos.soak_run", __doc__)
    return report(run(options), options.seed, "nothing grows under load, and nothing is left")


if __name__ == "__main__":
    sys.exit(main())
