"""The baseline: what one writes by hand, with one PUBLISH for each delta.

A Celery worker runs this module as its application, with the SDK's stream in each of its threads.
``python -m benchmarks.baseline --streams 10`` measures it alone; the other benchmarks measure it
and Penstock in the same run.
"""

import argparse
import os
import sys
from functools import cache
from typing import Any, Final

import anthropic
import redis
from celery import Celery

from benchmarks.figures import report
from benchmarks.listen import LAST
from benchmarks.rig import MODEL, Rig, asking, outcome, rig, said
from benchmarks.usage import Usage
from penstock.local.processes import LocalProcess
from penstock.local.stack import python_path
from penstock.settings import ClientSettings

PATTERN: Final = "baseline:*"
#: The last message of a stream that failed.
FAILED: Final = b"failed"

_url = ClientSettings.load().redis_url.get_secret_value()
app = Celery("baseline", broker=_url, set_as_current=False)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
_redis = redis.Redis.from_url(_url, max_connections=1000)


@app.task(name="baseline.stream")
def stream(channel: str, body: dict[str, Any]) -> None:
    """Publish an answer as it arrives."""
    try:
        with _api().messages.stream(**body) as answer:
            for text in answer.text_stream:
                _redis.publish(channel, text)
    except anthropic.APIError:
        _redis.publish(channel, FAILED)
        raise
    _redis.publish(channel, LAST)


@cache
def _api() -> anthropic.Anthropic:
    return anthropic.Anthropic(max_retries=int(os.environ.get("BASELINE_RETRIES", "2")))


class BaselineWorker(LocalProcess):
    """A worker process that runs `stream` in threads."""

    def __init__(self, stage: Rig, threads: int, *, retries: int = 2) -> None:
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.baseline", "worker"]
        command += ["--pool=threads", f"--concurrency={threads}", "--loglevel=INFO"]
        env = {**stage.env, **python_path(), "BASELINE_RETRIES": str(retries)}
        super().__init__("baseline", command, env=env)

    def start(self) -> "BaselineWorker":
        """Start the worker and wait until it takes tasks."""
        super().start()
        return self.wait_until(lambda: " ready." in self.log.read_text(errors="replace"))


def enqueue(stage: Rig, streams: int, **directives: float) -> None:
    """Send the Celery messages of this number of streams."""
    with Celery(broker=stage.redis.url, set_as_current=False) as sender:
        for number in range(streams):
            args = (f"baseline:{number}", asking(MODEL, **directives))
            sender.send_task("baseline.stream", args=args, ignore_result=True)


def measure(stage: Rig, worker: LocalProcess, streams: int, rate: float, seconds: float) -> Any:
    """Run this number of streams at a rate; returns latency and CPU."""
    deltas = max(1, round(rate * seconds))
    options = ("--streams", streams, "--deltas", deltas, "--timeout", 2 * seconds + 30)
    listener = stage.process("listen", "--redis", stage.redis.url, "--pattern", PATTERN, *options)
    listener.wait_until(said(listener, "ready"))
    usage = Usage(
        worker=worker.pid,
        redis=stage.redis.pid,
        simulator=stage.simulator.pid,
        subscriber=listener.pid,
    )
    enqueue(stage, streams, deltas=deltas, rate=rate, stamp=True)
    listener.wait_until(said(listener, "heard"), timeout=2 * seconds + 60)
    used = usage.cpu_s()
    figures = outcome(listener, timeout=60)
    return {
        "streams": streams,
        "asked_per_s": round(streams * rate),
        **figures,
        "cpu_us_per_delta": round(used["worker"] / max(1, figures["deltas"]) * 1e6, 1),
        "cpu_s": used,
    }


def main() -> None:
    """Measure the baseline alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=25)
    parser.add_argument("--rate", type=float, default=40)
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    with rig() as stage, BaselineWorker(stage, asked.streams) as worker:
        measure(stage, worker, 2, 0, 1)
        report("baseline", measure(stage, worker, asked.streams, asked.rate, asked.seconds))


if __name__ == "__main__":
    main()
