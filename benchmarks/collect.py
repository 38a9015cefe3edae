"""Measures collecting a batch's results, against iterating over them with the SDK.

``python -m benchmarks.collect``: the same results, from the same server, in one run. Penstock's
collect step also verifies, compresses and stores them.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import anthropic

from benchmarks.figures import note, report
from benchmarks.results_server import BATCH, MODEL, NONCE
from benchmarks.usage import cpu_s, forget_peak, memory_mb, peak_memory_mb
from config.settings import WorkerSettings
from penstock import Client
from penstock.batches.options import SubmissionOptions
from penstock.batches.shard import Shard
from penstock.batches.submission import Submission
from penstock.clock import now_ms
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import LocalProcess
from penstock.local.stack import SIMULATOR_KEY, python_path
from penstock.queue import names
from penstock.spool.chunks import ChunkWriter, RedisChunkStore
from penstock.store.connection import connect
from tasks.api.client import sync_client
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.steps import BatchSteps


def measured(what: Callable[[], int], lines: int, redis: int) -> dict[str, Any]:
    """Measure time, CPU and memory of a function that processes all lines."""
    own = os.getpid()
    forget_peak(own)
    memory, cpu, redis_cpu = memory_mb(own), cpu_s(own), cpu_s(redis)
    start = time.perf_counter()
    seen = what()
    took = time.perf_counter() - start
    if seen != lines:
        raise RuntimeError(f"{seen} lines of {lines}")
    return {
        "seconds": round(took, 3),
        "lines_per_s": round(lines / took),
        "us_per_line": round(took / lines * 1e6, 2),
        "cpu_us_per_line": round((cpu_s(own) - cpu) / lines * 1e6, 2),
        "redis_cpu_us_per_line": round((cpu_s(redis) - redis_cpu) / lines * 1e6, 2),
        "extra_peak_mb": round(peak_memory_mb(own) - memory, 1),
    }


def iterated(api: anthropic.Anthropic) -> int:
    """Iterate with the SDK and keep nothing."""
    return sum(1 for _ in api.messages.batches.results(BATCH))


class Job:
    """A job whose only shard is the server's batch."""

    def __init__(self, settings: WorkerSettings, redis: Any, lines: int) -> None:
        self.id = new_id()
        self._settings = settings
        self._redis = redis
        submission = Submission(self.id, redis, settings, SubmissionOptions())
        params = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        submission.spool([{"custom_id": "a", "params": params}])
        submission.enqueue(lambda _: None)
        keys = settings.keys.job(self.id)
        ids = ChunkWriter(RedisChunkStore(redis, keys, settings.batch_ttl_s), "ids-benchmark")
        for place in range(lines):
            ids.line(b"%d request-%d" % (place, place))
        ids.close()
        shard = self.shard().evolve(spool="benchmark", id_chunks=ids.chunks, requests=lines)
        shard = shard.evolve(state="ended", batch_id=BATCH, nonce=NONCE, created_ms=now_ms())
        redis.hset(keys.shards, 0, shard.encode())

    def shard(self) -> Shard:
        """The shard's record."""
        return Shard.parse(self._redis.hget(self._settings.keys.job(self.id).shards, 0))

    def collect(self, steps: BatchSteps) -> int:
        """Run the collect step; returns the number of stored lines."""
        self.step(steps, names.BATCH_COLLECT)
        return self.shard().result_lines

    def step(self, steps: BatchSteps, name: str) -> None:
        """Run one step of the shard."""
        with ClaimedShard.claim(
            self._redis, self._settings, job=self.id, shard=0, worker="benchmark"
        ) as work:
            steps.run(name, work)
        self._redis.hdel(work.job.keys.claims, "0:due")

    def read(self, client: Client) -> int:
        """Read all results as a client does; returns their number."""
        return sum(1 for _ in client.messages.batches.result_lines(self.id))

    def stored_mb(self) -> float:
        """The memory that Redis needs for the results, in MB."""
        key = self._settings.keys.job(self.id).chunks(self.shard().results)
        return int(self._redis.memory_usage(key, samples=0)) / 1e6


@contextmanager
def stage(lines: int, size: int) -> Iterator[tuple[WorkerSettings, EmbeddedRedis]]:
    """Start a Redis and the server of the results."""
    command = [sys.executable, "-m", "benchmarks.results_server"]
    options = ["--lines", str(lines), "--bytes", str(size)]
    with (
        EmbeddedRedis() as redis,
        LocalProcess("results", [*command, *options], env=python_path()) as server,
    ):
        server.wait_until(lambda: "http://" in server.log.read_text(), timeout=300)
        settings = WorkerSettings.load(
            redis_url=redis.url,
            anthropic_base_url=server.log.read_text().strip(),
            anthropic_api_key=SIMULATOR_KEY,
        )
        yield settings, redis


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Take all measurements."""
    with (
        stage(asked.lines, asked.bytes) as (settings, redis),
        closing(connect(settings)) as connection,
        sync_client(settings) as api,
        Client(redis.url) as client,
    ):
        steps, lines, pid = BatchSteps(settings, api), asked.lines, redis.pid
        note("the SDK")
        sdk = measured(lambda: iterated(api), lines, pid)
        note("the collect step")
        ours = []
        for _ in range(asked.rounds):
            job = Job(settings, connection, lines)
            ours.append(measured(partial(job.collect, steps), lines, pid))
        best = min(ours, key=lambda each: float(each["seconds"]))
        stored_mb = job.stored_mb()
        job.step(steps, names.BATCH_FINISH)
        note("reading them back")
        return {
            "lines": lines,
            "mb": round(lines * asked.bytes / 1e6),
            "sdk": sdk,
            "penstock": best,
            "penstock_seconds": [each["seconds"] for each in ours],
            "ratio": round(sdk["seconds"] / best["seconds"], 1),
            "cpu_ratio": round(sdk["cpu_us_per_line"] / best["cpu_us_per_line"], 1),
            "stored_mb": round(stored_mb, 1),
            "read_back": measured(partial(job.read, client), lines, pid),
        }


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=1_450)
    parser.add_argument("--rounds", type=int, default=3, help="of the collect step")
    asked = parser.parse_args()
    note("making the results")
    report("collect", run(asked))


if __name__ == "__main__":
    main()
