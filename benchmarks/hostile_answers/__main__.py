"""Measures whether the work for a hostile answer is linear, and how long it blocks the event loop.

Each answer is interrupted halfway, starts over in a second call, and is read by a reader that takes
every event: all of it at a size and at twice the size. ``python -m benchmarks.hostile_answers``
"""

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import orjson
import uvloop
from pydantic import SecretStr

from benchmarks.figures import note, report
from benchmarks.hostile_answers.answers import KINDS, answer
from config.settings import WorkerSettings
from penstock.events import decode, wrap
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import LocalProcess
from penstock.local.stack import python_path
from penstock.store.connection import connect, connect_async
from penstock.streams.records import RequestOptions, RequestRecords
from penstock.streams.transcript import Transcript
from tasks.api.client import async_client
from tasks.api.sse import SSEDecoder
from tasks.streams.publish.publisher import Publisher
from tasks.streams.publish.script_pipeline import ScriptPipeline
from tasks.streams.relay import Relay

#: Time for twice the size, divided by that for the size, from which the work is not linear.
MAX_RATIO: Final = 3.0
#: Seconds below which a ratio says nothing.
_NOTICEABLE_S: Final = 0.2
_TICK_S: Final = 0.002


@dataclass(slots=True)
class Worker:
    """The part of a stream worker that runs on its event loop."""

    relay: Relay
    settings: WorkerSettings
    records: RequestRecords
    longest_block_s: float = 0.0

    async def measure(self, kind: str, size: int) -> tuple[float, str]:
        """Run one request; returns the CPU seconds of this process, and how it ended."""
        id = new_id()
        messages = [{"role": "user", "content": f"{kind} {size} {id}"}]
        body = {"model": "claude-opus-5-5", "max_tokens": 10**9, "messages": messages}
        body["stream"] = True
        self.records.submit(id, "claude-opus-5-5", orjson.dumps(body), RequestOptions())
        gc.collect()
        began = time.process_time()
        result = await self.relay.run(id)
        return time.process_time() - began, result.state

    async def watch(self) -> None:
        """Note the longest work of the event loop that no other task could interrupt.

        In CPU time, so that other programs on the machine do not count.
        """
        while True:
            before = time.thread_time()
            await asyncio.sleep(_TICK_S)
            self.longest_block_s = max(self.longest_block_s, time.thread_time() - before)


def read(kind: str, size: int) -> float:
    """Read every event of an answer as a reader of its text does; returns the CPU seconds."""
    decoder = SSEDecoder()
    lines: list[bytes] = []
    for piece in answer(kind, size, whole=True):
        found = decoder.feed(piece)
        lines += [wrap(1, len(lines) + n, data) for n, data in enumerate(found, 1)]
    transcript = Transcript()
    flow = transcript.flow(None)
    gc.collect()
    began = time.process_time()
    for line in lines:
        transcript.read(decode(line), flow)
    flow.rest()
    _ = transcript.builder.content
    return time.process_time() - began


def ratio(seconds: list[float]) -> float | None:
    """Return how the time grows with twice the size; None if it is too short to say."""
    return round(seconds[1] / max(seconds[0], 0.001), 2) if seconds[1] > _NOTICEABLE_S else None


async def compare(worker: Worker, kind: str, size: int) -> dict[str, Any]:
    """Return the figures of one kind of answer."""
    note(f"{kind} {size}")
    seconds, blocked, state, reading = [], [], "", []
    for asked in (size, 2 * size):
        reading.append(round(read(kind, asked), 3))
        await asyncio.sleep(3 * _TICK_S)
        worker.longest_block_s = 0.0
        used, state = await worker.measure(kind, asked)
        seconds.append(round(used, 3))
        await asyncio.sleep(3 * _TICK_S)
        blocked.append(round(worker.longest_block_s * 1000))
    received = sum(len(piece) for piece in answer(kind, 2 * size, whole=True)) * 1.5
    return {
        "size": size,
        "state": state,
        "cpu_s": seconds,
        "ratio": ratio(seconds),
        "ns_per_byte": round(seconds[1] / received * 1e9, 1),
        "longest_block_ms": blocked,
        "reader_cpu_s": reading,
        "reader_ratio": ratio(reading),
    }


async def measured(url: str, api: str, work: Callable[[Worker], Awaitable[Any]]) -> Any:
    """Do the work with a worker that takes its answers from ``api``."""
    settings = WorkerSettings(  # type: ignore[call-arg]
        redis_url=SecretStr(url),
        ANTHROPIC_BASE_URL=api,
        ANTHROPIC_API_KEY="none",
        log_limit=10_000_000,
    )
    connection = connect_async(settings)
    publisher = Publisher(
        ScriptPipeline(connection, timeout_s=settings.redis_timeout_s),
        settings.keys,
        lease_ms=settings.lease_ms,
    )
    publisher.start()
    relay = Relay(settings, connection, async_client(settings), publisher, "benchmark")
    worker = Worker(relay, settings, RequestRecords(connect(settings), settings))
    watching = asyncio.create_task(worker.watch())
    try:
        await worker.measure("ordinary", 50_000)
        gc.freeze()
        gc.set_threshold(10_000, 5, 20)  # as in `tasks.streams.runtime`
        return await work(worker)
    finally:
        watching.cancel()


def main() -> int:
    """Measure all kinds of answers, or those that are named; return 1 if one is not linear."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_answers")
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--share", type=float, default=1.0, help="of the sizes of a full run")
    asked = parser.parse_args()
    kinds = dict.fromkeys(["ordinary", *(asked.kinds or KINDS)])
    if unknown := kinds.keys() - KINDS.keys():
        parser.error(f"unknown kind: {', '.join(sorted(unknown))}")

    async def work(worker: Worker) -> dict[str, Any]:
        sizes = {kind: max(10, int(KINDS[kind][1] * asked.share)) for kind in kinds}
        return {kind: await compare(worker, kind, size) for kind, size in sizes.items()}

    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis())
        command = [sys.executable, "-m", "benchmarks.hostile_answers.server"]
        server = stack.enter_context(LocalProcess("answers", command, env=python_path()))
        server.wait_until(lambda: "http://" in server.log.read_text())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(measured(redis.url, server.log.read_text().strip(), work))
    baseline = figures["ordinary"]["ns_per_byte"]
    for each in figures.values():
        each["to_ordinary"] = round(each.pop("ns_per_byte") / baseline, 2)
    ratios = [each[name] or 0.0 for each in figures.values() for name in ("ratio", "reader_ratio")]
    longest = max(max(each["longest_block_ms"]) for each in figures.values())
    worst = {"highest_ratio": max(ratios), "longest_block_ms": longest}
    report("hostile_answers", {**worst, "kinds": figures})
    return 1 if worst["highest_ratio"] > MAX_RATIO else 0


if __name__ == "__main__":
    sys.exit(main())
