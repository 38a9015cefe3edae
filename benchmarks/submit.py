"""Measures submitting many requests, against one ``create()`` of the SDK.

``python -m benchmarks.submit``: the same requests to the same server, in one run. First the SDK, in
a program of its own. Then Penstock: a program that submits the job, and a worker process whose
create steps create the job's batches. Penstock also stores the requests, so it does more.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.figures import note, report
from benchmarks.rig import Rig, outcome, rig
from benchmarks.usage import Usage, forget_peak, memory_mb, peak_memory_mb
from penstock.local.processes import LocalProcess
from penstock.local.stack import WorkerProcess, python_path

#: Seconds after which a part of the measurement counts as hung.
_TIMEOUT_S = 1_800.0


def submitted(stage: Rig, way: str, url: str, options: Sequence[object]) -> dict[str, Any]:
    """Run a program that submits the requests; returns the figures that it prints."""
    note(f"  {way}")
    process = stage.process("submitter", way, url, *options)
    return outcome(process, timeout=_TIMEOUT_S)


def created(stage: Rig, worker: WorkerProcess, job: str) -> dict[str, Any]:
    """Let the suspended worker create the job's batches; returns time, CPU and memory."""
    batches, memory = stage.client.messages.batches, memory_mb(worker.pid)
    forget_peak(worker.pid)
    usage, start = Usage(worker=worker.pid, redis=stage.redis.pid), time.perf_counter()
    os.kill(worker.pid, signal.SIGCONT)
    while waiting := [s for s in batches.retrieve(job).shards if s.state in ("planned", "sending")]:
        if time.perf_counter() - start > _TIMEOUT_S:
            raise RuntimeError(f"{len(waiting)} shards have no batch{worker.tail()}")
        time.sleep(0.02)
    used = usage.cpu_s()
    return {
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_s": used["worker"],
        "redis_cpu_s": used["redis"],
        "extra_peak_mb": round(peak_memory_mb(worker.pid) - memory, 1),
        "batches": len(batches.retrieve(job).shards),
        "others_cores": used["others_cores"],
    }


def penstock(stage: Rig, url: str, options: Sequence[object]) -> dict[str, Any]:
    """Submit with a program, then with a worker; each has the machine to itself."""
    env = {
        **stage.env,
        "ANTHROPIC_BASE_URL": url,
        "PENSTOCK_QUEUED_REQUESTS_LIMIT": "100000000",
        "PENSTOCK_ACTIVE_BATCHES_LIMIT": "100000",
    }
    with WorkerProcess("batches", env=env) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            producer = submitted(stage, "penstock", stage.redis.url, options)
            note("  penstock: the create steps")
            create = created(stage, worker, producer.pop("job"))
        finally:
            os.kill(worker.pid, signal.SIGCONT)
    connection: Any = stage.client._redis
    stored = connection.info("memory")["used_memory"]
    return {"producer": producer, "create_step": create, "stored_mb": round(stored / 1e6, 1)}


def ratios(sdk: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    """The SDK's figures divided by ours: wall time, and CPU of our processes."""
    parts = [ours["producer"], ours["create_step"]]
    return {
        "seconds": round(sdk["seconds"] / sum(part["seconds"] for part in parts), 1),
        "cpu": round(sdk["cpu_s"] / sum(part["cpu_s"] for part in parts), 1),
        "producer_seconds": round(sdk["seconds"] / parts[0]["seconds"], 1),
        "producer_cpu": round(sdk["cpu_s"] / parts[0]["cpu_s"], 1),
    }


def main() -> None:
    """Measure both and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=2_000)
    parser.add_argument(
        "--lazy", action="store_true", help="generate requests; without the SDK, which needs a list"
    )
    asked = parser.parse_args()
    command = [sys.executable, "-m", "benchmarks.batch_server"]
    options = ["--requests", asked.requests, "--bytes", asked.bytes]
    with rig() as stage, LocalProcess("server", command, env=python_path()) as server:
        server.wait_until(lambda: "http://" in server.log.read_text())
        url = server.log.read_text().strip()
        sdk = None if asked.lazy else submitted(stage, "sdk", url, options)
        ours = penstock(stage, url, [*options, "--lazy"] if asked.lazy else options)
    figures = {"requests": asked.requests, "bytes": asked.bytes, **ours}
    if sdk is not None:
        figures |= {"sdk": sdk, "ratio": ratios(sdk, ours)}
    report("submit", figures)


if __name__ == "__main__":
    main()
