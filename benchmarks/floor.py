"""Measures the floor: CPU for reading the streams as the worker does, no Redis.

``python -m benchmarks.floor --streams 300 --rate 40 --deltas 400``
"""

import argparse
import asyncio
import json
import os
import time

import uvloop

from benchmarks.figures import report
from benchmarks.rig import asking, outcome, rig
from benchmarks.usage import cpu_s
from config.settings import WorkerSettings
from tasks.api.client import async_client
from tasks.api.message_stream import open_stream


async def read(streams: int, rate: float, deltas: int) -> dict[str, float]:
    """Read this number of streams at the same time; returns CPU and time per delta."""
    api = async_client(WorkerSettings.load())

    async def one(asked_deltas: int) -> int:
        seen = 0
        async with open_stream(
            api, asking(deltas=asked_deltas, rate=rate, stamp=True), {}
        ) as answer:
            async for events in answer.events():
                seen += sum(b'"text_delta"' in event for event in events)
        return seen

    await one(2)
    cpu, start = cpu_s(os.getpid()), time.monotonic()
    seen = sum(await asyncio.gather(*(one(deltas) for _ in range(streams))))
    seconds = time.monotonic() - start
    assert seen == streams * deltas, f"{seen} of {streams * deltas} deltas"
    used = cpu_s(os.getpid()) - cpu
    return {
        "cpu_us_per_delta": round(used / seen * 1e6, 1),
        "deltas_per_s": round(seen / seconds),
        "cpu_s": round(used, 2),
    }


def main() -> None:
    """Measure here if the environment names an API; otherwise start a simulator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--rate", type=float, default=40)
    parser.add_argument("--deltas", type=int, default=400)
    asked = parser.parse_args()
    if "ANTHROPIC_BASE_URL" in os.environ:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(read(asked.streams, asked.rate, asked.deltas))))
        return
    with rig() as stage:
        options = ("--streams", asked.streams, "--rate", asked.rate, "--deltas", asked.deltas)
        report("floor", outcome(stage.process("floor", *options), timeout=120))


if __name__ == "__main__":
    main()
