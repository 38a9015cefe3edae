"""The whole of Penstock on one machine, each part its own process: for the demo, tests and ``up``.

The parts are the ones that run in production (a Redis server, Celery workers, Flower); only the
simulator stands in, for the API, and is reached through ``ANTHROPIC_BASE_URL`` alone.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

from penstock.local.approot import app_root, package_root
from penstock.local.processes import LocalProcess, free_port
from penstock.queue.names import QUEUES

#: The simulator takes any key; this one says what it is.
SIMULATOR_KEY = "simulated-key"

# A proxy in the environment does not lead to our own loopback addresses.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class SimulatorProcess(LocalProcess):
    """The API simulator on a free loopback port."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "penstock.simulator", "--port", "0", *options]
        super().__init__("simulator", command, env=python_path())
        self.url = ""  #: its address, for ``ANTHROPIC_BASE_URL``

    def start(self) -> "SimulatorProcess":
        """Start it and wait for the line with its address."""
        super().start()
        self.wait_until(self._announced)
        return self

    def _announced(self) -> bool:
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("http://"):
                self.url = line.strip()
        return bool(self.url)


class WorkerProcess(LocalProcess):
    """A Celery worker for one queue, started as ``celery -A workers.app worker`` is by hand."""

    def __init__(
        self, queue: str, *options: str, env: Mapping[str, str], name: str | None = None
    ) -> None:
        self.queue = queue
        name = name or queue
        command = worker_command(queue, "--hostname", f"{name}@%h", *options)
        super().__init__(name, command, env={**env, **python_path()})

    def start(self) -> "WorkerProcess":
        """Start it and wait until it takes tasks."""
        return self.launch().wait_until_ready()

    def launch(self) -> "WorkerProcess":
        """Start it without waiting."""
        super().start()
        return self

    def wait_until_ready(self) -> "WorkerProcess":
        """Wait until it takes tasks."""
        return self.wait_until(
            lambda: " ready." in self.log.read_text(errors="replace"), timeout=60
        )


class FlowerProcess(LocalProcess):
    """Flower on a free loopback port, showing what has run since it started."""

    def __init__(self, *options: str, env: Mapping[str, str], port: int | None = None) -> None:
        self.port = port or free_port()
        command = flower_command("--address=127.0.0.1", f"--port={self.port}", *options)
        super().__init__("flower", command, env={**env, **python_path()})

    @property
    def url(self) -> str:
        """Its address, for a browser."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "FlowerProcess":
        """Start it and wait until it answers."""
        super().start()
        self.wait_until(lambda: answers(f"{self.url}/healthcheck"), timeout=60)
        return self

    def wait_for_workers(self, count: int) -> "FlowerProcess":
        """Wait until it hears so many workers. It shows no task that ran before that."""
        return self.wait_until(lambda: self._workers() >= count)

    def _workers(self) -> int:
        with _direct.open(f"{self.url}/workers?json=1", timeout=5) as response:
            return len(json.load(response)["data"])


def worker_command(queue: str, *options: str) -> list[str]:
    """The command line of a worker; needs `python_path` in its environment."""
    if queue not in QUEUES:
        raise ValueError(f"no such queue: {queue}")
    return [*_celery("worker"), "--queues", queue, *options]


def flower_command(*options: str) -> list[str]:
    """The command line of Flower; needs `python_path` in its environment."""
    return [*_celery("flower"), *options]


def _celery(command: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "workers.app", command]


def python_path() -> dict[str, str]:
    """The environment that lets a child import the application's folders, and them alone."""
    parts = [str(app_root()), str(package_root())]
    if inherited := os.environ.get("PYTHONPATH"):
        parts.append(inherited)
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(parts)), "PYTHONUNBUFFERED": "1"}


def answers(url: str) -> bool:
    """Whether an HTTP GET of a loopback address succeeds."""
    try:
        with _direct.open(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
