"""Measures many requests at once against a low rate limit: rejections and time.

``python -m benchmarks.rate_storm``: 200 requests at once against 60 a minute, with the minute
shortened to 6 s in the simulator, so that no run can end before 14 s. In the same run the baseline
with the SDK's retries: two, which is the default, and as many as it takes.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from benchmarks import baseline
from benchmarks.baseline import FAILED, BaselineWorker
from benchmarks.figures import note, report
from benchmarks.listen import LAST
from benchmarks.rig import Rig, asking, rig
from penstock.states import State

LIMIT = ("--requests-per-minute", "60", "--minute-seconds", "6")
Measured = dict[str, Any]


def counted(stage: Rig, requests: int, run: Callable[[], int]) -> Measured:
    """Count the calls and rejections while ``run`` serves the requests."""
    # Long enough for the bucket to be full, whatever was taken before.
    time.sleep(6.5)
    before, start = _answers(stage), time.monotonic()
    served = run()
    seconds = time.monotonic() - start
    calls = {status: n - before.get(status, 0) for status, n in _answers(stage).items()}
    refused = calls.get("429", 0)
    return {
        "served": served,
        "failed": requests - served,
        "calls": sum(calls.values()),
        "refused": refused,
        "refused_share": round(refused / max(1, sum(calls.values())), 3),
        "seconds": round(seconds, 1),
    }


def _answers(stage: Rig) -> dict[str, int]:
    found: dict[str, int] = stage.control.stats()["requests"].get("POST /v1/messages", {})
    return found


def penstock(stage: Rig, requests: int) -> Measured:
    """The storm through Penstock."""

    def run() -> int:
        body = asking(deltas=3, rate=0)
        handles = [stage.client.messages.enqueue(**body) for _ in range(requests)]
        for handle in handles:
            for _ in handle.events(timeout=120):
                pass
        return sum(handle.state is State.DONE for handle in handles)

    return counted(stage, requests, run)


def plain(stage: Rig, requests: int, retries: int) -> Measured:
    """The storm through the baseline."""

    def run() -> int:
        served = ended = 0
        connection: Any = stage.client._redis
        with connection.pubsub() as channels:
            channels.psubscribe(baseline.PATTERN)
            baseline.enqueue(stage, requests, deltas=3, rate=0)
            deadline = time.monotonic() + 180
            while ended < requests and time.monotonic() < deadline:
                message = channels.get_message(timeout=1.0)
                data = message["data"] if message else None
                served += data == LAST
                ended += data in (LAST, FAILED)
        return served

    with BaselineWorker(stage, requests, retries=retries):
        return counted(stage, requests, run)


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    requests = parser.parse_args().requests
    with rig(*LIMIT) as stage:
        # Warmed up with another model, so that the rate limiter knows nothing about this one yet.
        worker = stage.worker(warm="claude-haiku-5-5")
        figures: dict[str, Any] = {"penstock": penstock(stage, requests)}
        note(f"penstock: {figures['penstock']}")
        worker.stop()
        for retries in (2, 60):
            name = f"baseline_{retries}_retries"
            figures[name] = plain(stage, requests, retries)
            note(f"{name}: {figures[name]}")
    shares = (figures["baseline_2_retries"]["refused_share"], figures["penstock"]["refused_share"])
    figures["ratio"] = round(shares[0] / shares[1], 1) if shares[1] else None  # none refused
    report("rate_storm", figures)


if __name__ == "__main__":
    main()
