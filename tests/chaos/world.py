"""The processes of a chaos run: a Redis that can be killed, the simulator, workers."""

import contextlib
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Self

from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import free_port
from penstock.local.stack import SIMULATOR_KEY, SimulatorProcess, WorkerProcess
from penstock.queue.names import BATCHES_QUEUE, STREAMS_QUEUE
from tests.chaos import points

LEASE_S = 1.5


class World:
    """All processes of a run. A context manager."""

    queue = STREAMS_QUEUE
    simulator_options: tuple[str, ...] = ()
    worker_options: tuple[str, ...] = ()

    def __init__(self, workers: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
        self._port = free_port()
        self.redis = EmbeddedRedis(folder=self._folder, port=self._port)
        self.simulator = SimulatorProcess(*self.simulator_options)
        self._count = workers
        self._started = 0
        self.workers: list[WorkerProcess] = []  #: ready workers, which may be killed
        self.coming: list[WorkerProcess] = []  #: workers that are not ready yet

    def __enter__(self) -> Self:
        self.redis.start()
        self.simulator.start()
        for _ in range(self._count):
            self.launch()
        for worker in self.coming:
            worker.wait_until_ready()
        self.admit_ready()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self.workers, *self.coming]:
            worker.kill()
            worker.stop()
        self.simulator.stop()
        self.redis.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """Settings that never give up where production would, and wait less than it does."""
        return {
            "PENSTOCK_REDIS_URL": self.redis.url,
            "ANTHROPIC_BASE_URL": self.simulator.url,
            "ANTHROPIC_API_KEY": SIMULATOR_KEY,
            # Low enough that some requests have to wait in the queue.
            "PENSTOCK_STREAMS_CONCURRENCY": "6",
            "PENSTOCK_LEASE_MS": str(int(LEASE_S * 1000)),
            "PENSTOCK_STREAM_IDLE_TIMEOUT_S": "1.5",
            "PENSTOCK_WAKEUP_RETRY_S": "2",
            "PENSTOCK_API_RETRY_MAX_WAIT_S": "0.5",
            "PENSTOCK_MAX_WORKER_LOSSES": "1000",
            "PENSTOCK_MAX_ATTEMPTS": "1000",
            "PENSTOCK_MAX_API_RETRIES": "1000",
            "C_FORCE_ROOT": "1",
        }

    def launch(self) -> None:
        """Start another worker without waiting for it."""
        self._started += 1
        worker = WorkerProcess(
            self.queue,
            *self.worker_options,
            env=self.environment,
            name=f"{self.queue}-{self._started}",
        )
        self.coming.append(worker.launch())

    def admit_ready(self) -> None:
        """Move workers that have become ready to `workers`."""
        for worker in list(self.coming):
            if not worker.alive or " ready." in worker.log.read_text(errors="replace"):
                self.coming.remove(worker)
                self.workers.append(worker)

    def remove(self, worker: WorkerProcess) -> None:
        """Remove a worker that has ended."""
        self.workers.remove(worker)
        worker.stop()

    def restart_redis(self, *, lose: int = 0) -> None:
        """Kill Redis and restart it without the last ``lose`` bytes on disk."""
        self.redis.kill()
        self.redis.stop()
        [log] = self._folder.glob("appendonlydir/*.incr.aof")
        with log.open("r+b") as file:
            file.truncate(max(0, log.stat().st_size - lose))
        self.redis = EmbeddedRedis(folder=self._folder, port=self._port)
        self.redis.start()

    def complaints(self) -> list[str]:
        """Lines of the workers' logs that report a bug of ours."""
        found = []
        for worker in [*self.workers, *self.coming]:
            with contextlib.suppress(OSError):
                found += complaints(worker.log.read_text(errors="replace"))
        return found


class MalformedWorld(World):
    """A world with production's limits for attempts and retries."""

    # Every call is counted at the end.
    simulator_options = ("--log-size", "100000")

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._noted: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """More streams at once, and no setting that keeps a stream from failing."""
        # No worker is killed, so a short lease would only expire on a busy machine.
        changed = ("MAX_ATTEMPTS", "MAX_API_RETRIES", "LEASE_MS")
        kept = {k: v for k, v in super().environment.items() if not k.endswith(changed)}
        return {**kept, "PENSTOCK_STREAMS_CONCURRENCY": "40"}

    def note(self, worker: WorkerProcess) -> None:
        """Keep what a worker that is about to end has logged of bugs of ours."""
        self._noted += complaints(worker.log.read_text(errors="replace"))

    def complaints(self) -> list[str]:
        """Lines of all workers' logs, ended ones included, that report a bug of ours."""
        return [*self._noted, *super().complaints()]


class BatchWorld(World):
    """A world of batch workers, which are killed where `tests.chaos.points` has a ticket."""

    queue = BATCHES_QUEUE
    simulator_options = ("--batch-seconds", "0.4")
    worker_options = ("--include", "tests.chaos.points")

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.tickets, self.points = self._folder / "tickets", self._folder / "points"
        for folder in (self.tickets, self.points):
            folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """Intervals as short as the simulator's."""
        return {
            **super().environment,
            "PENSTOCK_POLL_INTERVAL_MIN_S": "0.2",
            "PENSTOCK_WAKEUP_RETRY_S": "1",
            "PENSTOCK_UPLOAD_TIMEOUT_S": "3",
            "PENSTOCK_LOST_CREATE_WAIT_S": "2",
            "PENSTOCK_LIST_CONSISTENCY_S": "0.5",
            "PENSTOCK_BATCHES_CONCURRENCY": "12",
            points.TICKETS: str(self.tickets),
            points.POINTS: str(self.points),
        }

    def replace_the_dead(self) -> int:
        """Start a worker for each one that has died; returns their number."""
        self.admit_ready()
        dead = [worker for worker in self.workers if not worker.alive]
        for worker in dead:
            self.remove(worker)
            self.launch()
        return len(dead)


def complaints(log: str) -> list[str]:
    """Lines that must not occur in a worker's log."""
    signs = (
        "because of a bug in penstock",
        "Task exception was never retrieved",
        "Unrecoverable",
        "reaper tick failed",
    )
    return [line for line in log.splitlines() if any(sign in line for sign in signs)]


def pause(worker: WorkerProcess | EmbeddedRedis) -> None:
    """Stop a process with SIGSTOP."""
    _signal(worker, signal.SIGSTOP)


def resume(worker: WorkerProcess | EmbeddedRedis) -> None:
    """Continue a stopped process."""
    _signal(worker, signal.SIGCONT)


def _signal(process: WorkerProcess | EmbeddedRedis, number: signal.Signals) -> None:
    import os

    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
