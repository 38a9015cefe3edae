"""Measures how many deltas per second a worker carries, against the baseline.

``python -m benchmarks.capacity``: 300 streams × 40 deltas/s for a minute. ``--sweep`` searches for
the highest rate at which 99 % of the deltas reach the subscriber within 100 ms.
"""

import argparse
from collections.abc import Callable
from typing import Any, Final

from benchmarks import baseline
from benchmarks.baseline import BaselineWorker
from benchmarks.figures import note, report
from benchmarks.rig import Rig, asking, outcome, rig, said
from benchmarks.usage import Usage, forget_peak, memory_mb, peak_memory_mb
from penstock.local.stack import WorkerProcess

PATTERN: Final = "penstock:*:events"
BOUND_MS: Final = 100.0
#: A step of the sweep that misses the bound is repeated if other programs used at least this many
#: cores during it.
DISTURBED_CORES: Final = 0.15
TRIES: Final = 3
Measured = dict[str, Any]


def measure(
    stage: Rig, worker: WorkerProcess, streams: int, rate: float, seconds: float
) -> Measured:
    """Run this number of streams at a rate through one worker process."""
    deltas = max(1, round(rate * seconds))
    options = ("--streams", streams, "--deltas", deltas, "--timeout", 2 * seconds + 30)
    listener = stage.process(
        "listen", "--redis", stage.redis.url, "--pattern", PATTERN, "--stored", *options
    )
    listener.wait_until(said(listener, "ready"))
    forget_peak(worker.pid)
    idle_mb = memory_mb(worker.pid)
    usage = Usage(
        worker=worker.pid,
        redis=stage.redis.pid,
        simulator=stage.simulator.pid,
        subscriber=listener.pid,
    )
    for _ in range(streams):
        stage.client.messages.enqueue(**asking(deltas=deltas, rate=rate, stamp=True))
    listener.wait_until(said(listener, "heard"), timeout=2 * seconds + 60)
    used = usage.cpu_s()
    heard = outcome(listener, timeout=60)
    delivered = max(1, heard["deltas"])
    grown_mb = peak_memory_mb(worker.pid) - idle_mb
    return {
        "streams": streams,
        "asked_per_s": round(streams * rate),
        "expected": streams * deltas,
        **heard,
        "cpu_us_per_delta": round(used["worker"] / delivered * 1e6, 1),
        "redis_cpu_us_per_delta": round(used["redis"] / delivered * 1e6, 1),
        "cpu_s": used,
        "peak_mb_per_stream": round(grown_mb / streams, 3),
    }


def within(measured: Measured, expected: int) -> bool:
    """Whether all deltas of a step arrived, at the requested rate and in time."""
    if measured["deltas"] != expected or measured["complete"] != measured["streams"]:
        return False
    pace = measured["steady_per_s"] or measured["deltas_per_s"]
    on_pace = pace >= 0.95 * measured["asked_per_s"]
    return bool(on_pace and measured["steady_p99_ms"] <= BOUND_MS)


def sweep(
    run: Callable[[int], Measured], first: int, step: int, most: int, rate: float, seconds: float
) -> tuple[int, list[Measured]]:
    """Find the highest rate that is carried; two misses in a row end the search."""
    best, missed, steps = 0, 0, list[Measured]()
    for streams in range(first, most + 1, step):
        for _ in range(TRIES):
            measured = run(streams)
            carried = within(measured, streams * max(1, round(rate * seconds)))
            if carried or measured["cpu_s"]["others_cores"] < DISTURBED_CORES:
                break
        p99 = measured["steady_p99_ms"]
        pace = measured["steady_per_s"]
        note(f"  {streams} streams, {pace} deltas/s: p99 {p99} ms, {carried=}")
        steps.append(
            {
                "asked_per_s": round(streams * rate),
                "steady_per_s": pace,
                "steady_p99_ms": p99,
                "carried": carried,
                "cpu_us_per_delta": measured["cpu_us_per_delta"],
                "others_cores": measured["cpu_s"]["others_cores"],
            }
        )
        best = max(best, round(streams * rate)) if carried else best
        missed = 0 if carried else missed + 1
        if missed == 2:
            break
    return best, steps


def floor(stage: Rig, streams: int, rate: float, deltas: int) -> Measured:
    """Measure the CPU for only reading the same streams."""
    options = ("--streams", streams, "--rate", rate, "--deltas", deltas)
    return outcome(stage.process("floor", *options), timeout=120)


def beside(stage: Rig, ours: Measured, rate: float) -> Measured:
    """Measure the baseline with 10 streams; ``ratio`` compares CPU per delta."""
    with BaselineWorker(stage, 10) as plain:
        baseline.measure(stage, plain, 2, 0, 1)  # warm
        theirs: Measured = baseline.measure(stage, plain, 10, rate, 5)
    kept = ("streams", "deltas_per_s", "latency_ms", "cpu_us_per_delta")
    ratio = round(theirs["cpu_us_per_delta"] / ours["cpu_us_per_delta"], 1)
    return {**{name: theirs[name] for name in kept}, "ratio": ratio}


def highest_rates(stage: Rig, worker: WorkerProcess, asked: argparse.Namespace) -> Measured:
    """Sweep the worker and the baseline, and compare them."""
    rate, seconds = asked.rate, asked.step_seconds
    note("the worker:")
    ours, our_steps = sweep(
        lambda n: measure(stage, worker, n, rate, seconds), 200, 50, 800, rate, seconds
    )
    note("the baseline:")
    with BaselineWorker(stage, 120) as plain:
        baseline.measure(stage, plain, 2, 0, 1)  # warm
        theirs, their_steps = sweep(
            lambda n: baseline.measure(stage, plain, n, rate, seconds), 16, 8, 120, rate, seconds
        )
    return {
        "highest_per_s": ours,
        "baseline_highest_per_s": theirs,
        "ratio": round(ours / theirs, 1) if theirs else None,
        "steps": our_steps,
        "baseline_steps": their_steps,
    }


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--rate", type=float, default=40, help="deltas per second of a stream")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--sweep", action="store_true", help="also search for the highest rates")
    parser.add_argument("--step-seconds", type=float, default=10, help="of each sweep step")
    parser.add_argument("--no-floor", action="store_true")
    asked = parser.parse_args()
    with rig() as stage:
        figures: Measured = {}
        if not asked.no_floor:
            deltas = max(1, round(asked.rate * min(asked.seconds, 10)))
            figures["floor"] = floor(stage, asked.streams, asked.rate, deltas)
            note(f"floor: {figures['floor']}")
        worker = stage.worker(PENSTOCK_STREAMS_CONCURRENCY=str(max(asked.streams, 800)))
        figures |= measure(stage, worker, asked.streams, asked.rate, asked.seconds)
        figures["baseline"] = beside(stage, figures, asked.rate)
        if asked.sweep:
            figures["sweep"] = highest_rates(stage, worker, asked)
    report("capacity", figures)


if __name__ == "__main__":
    main()
