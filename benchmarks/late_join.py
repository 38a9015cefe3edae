"""Measures what it costs to join a long answer late, and to have many readers.

``python -m benchmarks.late_join``: joins a stream that has written 20,000 deltas and has not ended,
by its stored text (one GET), by ``text_stream`` and by a replay of its log. Then 1,000 readers on
one event loop follow one stream from its beginning.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.figures import note, report, spread
from benchmarks.rig import Rig, asking, rig
from penstock import AsyncClient
from penstock.streams.stream import StreamRequest

Measured = dict[str, Any]


def long_stream(stage: Rig, deltas: int) -> StreamRequest:
    """Start a stream that writes this number of deltas and then stalls before its end."""
    # At full speed most deltas would be merged, and the log would be short.
    body = asking(deltas=deltas + 1, rate=1000, stamp=True, stall_after=deltas, stall=600)
    handle = stage.client.messages.enqueue(**body)
    for event in handle.events(timeout=60):
        if event.type == "content_block_start":
            break
    seen, deadline = -1, time.monotonic() + deltas / 100 + 30
    while time.monotonic() < deadline:
        time.sleep(1)
        written = handle.text().count(" ")
        if written == seen == deltas:
            return handle
        seen = written
    raise RuntimeError(f"{seen} of {deltas} deltas were written")


def timed(action: Callable[[], int], rounds: int = 5) -> Measured:
    """Medians of wall and CPU time of an action, which returns how much it has read."""
    walls, cpus, got = [], [], 0
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        got = action()
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return {"got": got, "ms": round(median(walls) * 1e3, 2), "cpu_ms": round(median(cpus) * 1e3, 2)}


def joins(stage: Rig, deltas: int) -> Measured:
    """Measure each way to join late."""
    handle = long_stream(stage, deltas)
    last = handle.record().n
    size = len(handle.text())

    def text_stream() -> int:
        got = 0
        with stage.client.messages.attach(handle.id, timeout=60) as stream:
            for piece in stream.text_stream:
                got += len(piece)
                if got >= size:
                    break
        return got

    def replay() -> int:
        for event in handle.events(timeout=60):
            if event.n >= last:
                return event.n
        return 0

    figures = {
        "deltas": deltas,
        "log_events": last,
        "characters": size,
        "snapshot": timed(lambda: len(handle.text())),
        "text_stream": timed(text_stream),
        "log_replay": timed(replay),
    }
    handle.cancel()
    return figures


async def many(stage: Rig, readers: int, deltas: int) -> Measured:
    """Measure many readers of one stream, on one event loop with one connection."""
    delays: list[int] = []
    events = 0

    async def read(id: str) -> str:
        nonlocal events
        parts = []
        async with client.messages.attach(id, timeout=60) as stream:
            async for event in stream:
                events += 1
                if event.type == "content_block_delta":
                    now, text = time.monotonic_ns(), event.delta.text
                    delays.extend(now - int(stamp) for stamp in text.split())
                    parts.append(text)
        return "".join(parts)

    async with AsyncClient(stage.redis.url) as client:
        cpu = time.process_time()
        # The first byte is delayed, so that all readers have joined before the first delta.
        body = asking(deltas=deltas, rate=10, stamp=True, slow_first=3)
        handle = stage.client.messages.enqueue(**body)
        texts = await asyncio.gather(*(read(handle.id) for _ in range(readers)))
        cpu = time.process_time() - cpu
    whole = sum(text == handle.text() for text in texts)
    return {
        "readers": readers,
        "whole": whole,
        "events": events,
        "cpu_us_per_event": round(cpu / events * 1e6, 1),
        "latency_ms": spread(delays, scale=1e-6),
    }


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deltas", type=int, default=20_000)
    parser.add_argument("--readers", type=int, default=1000)
    asked = parser.parse_args()
    with rig() as stage:
        stage.worker()
        figures = {"late_join": joins(stage, asked.deltas)}
        note(f"{figures}")
        figures["many_readers"] = asyncio.run(many(stage, asked.readers, 100))
    report("late_join", figures)


if __name__ == "__main__":
    main()
