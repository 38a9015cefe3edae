"""Measures what Penstock adds to a single stream on an idle machine.

``python -m benchmarks.overhead``: the time to the first delta, against the SDK called directly, in
turns; and the time from the call of ``enqueue`` to the claim by a worker.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import anthropic

from benchmarks.figures import note, report, spread
from benchmarks.rig import Rig, asking, rig
from penstock.local.stack import SIMULATOR_KEY


def direct(api: anthropic.Anthropic, body: dict[str, Any]) -> float:
    """Seconds to the first text of the SDK's own stream."""
    start = time.perf_counter()
    with api.messages.stream(**body) as stream:
        for _ in stream.text_stream:
            return time.perf_counter() - start
    raise RuntimeError("an answer without text")


def queued(stage: Rig, body: dict[str, Any]) -> float:
    """Seconds to the first text through queue, worker and Redis."""
    start = time.perf_counter()
    with stage.client.messages.stream(**body, timeout=30) as stream:
        for _ in stream.text_stream:
            took = time.perf_counter() - start
            stream.until_done()
            return took
    raise RuntimeError("an answer without text")


def claimed(stage: Rig, body: dict[str, Any]) -> float:
    """Seconds from the call that enqueues until a worker has claimed the request."""
    start = time.perf_counter()
    handle = stage.client.messages.enqueue(**body)
    meta = stage.client.settings.keys.request(handle.id).meta
    while stage.client._redis.hget(meta, "started_ms") is None:
        time.sleep(0.0002)
    took = time.perf_counter() - start
    for _ in handle.events(timeout=30):
        pass
    return took


def alternating(rounds: int, *ways: Callable[[], float]) -> list[list[float]]:
    """Time the functions in turns, so that disturbances affect all of them alike."""
    times: list[list[float]] = [[] for _ in ways]
    for number in range(rounds):
        for way, took in zip(ways, times, strict=True):
            took.append(way())
        if number % 50 == 0:
            note(f"  {number} of {rounds}")
    return times


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    with rig() as stage:
        stage.worker()
        api = anthropic.Anthropic(base_url=stage.simulator.url, api_key=SIMULATOR_KEY)
        # An answer of a few quick deltas: only the first one matters.
        body = asking(deltas=3, rate=0)
        alternating(5, lambda: direct(api, body), lambda: queued(stage, body))
        plain, ours, claims = alternating(
            rounds,
            lambda: direct(api, body),
            lambda: queued(stage, body),
            lambda: claimed(stage, body),
        )
    added = statistics.median(ours) - statistics.median(plain)
    report(
        "overhead",
        {
            "added_to_first_delta_ms": round(added * 1e3, 2),
            "ratio": round(statistics.median(ours) / statistics.median(plain), 1),
            "first_delta_ms": {
                "direct": spread(plain, scale=1e3),
                "penstock": spread(ours, scale=1e3),
            },
            "enqueued_to_claimed_ms": spread(claims, scale=1e3),
        },
    )


if __name__ == "__main__":
    main()
