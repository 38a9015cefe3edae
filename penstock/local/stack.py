"""The processes of a deployment on one machine, for ``demo``, ``up`` and tests.

They are the ones that run in production, except for the simulator: it replaces the API, and
workers reach it only through ``ANTHROPIC_BASE_URL``.
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from penstock.errors import LocalProcessError
from penstock.local.approot import app_root, package_root
from penstock.local.flower_access import (
    FLOWER_USER,
    flower_environment,
    given_options,
    new_password,
)
from penstock.local.processes import LocalProcess, free_port
from penstock.queue.consumers import SIMULATED
from penstock.queue.names import QUEUES

#: The simulator accepts any key; this one is recognizable.
SIMULATOR_KEY = "simulated-key"
#: Celery prefers these variables to its configuration.
BROKER_VARIABLES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")

# Bypasses any proxy: a proxy could not reach our loopback addresses.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class SimulatorProcess(LocalProcess):
    """The API simulator on a free loopback port."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "penstock.simulator", "--port", "0", *options]
        super().__init__("simulator", command, env=python_path())
        self.url = ""  #: value for ``ANTHROPIC_BASE_URL``

    def start(self) -> "SimulatorProcess":
        """Start the simulator and wait until it has printed its address."""
        super().start()
        self.wait_until(self._announced)
        return self

    def _announced(self) -> bool:
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("http://"):
                self.url = line.strip()
        return bool(self.url)


class WorkerProcess(LocalProcess):
    """A Celery worker for one queue, started by ``celery -A workers.app worker``.

    ``simulated``: its node name says that it uses the simulator.
    """

    def __init__(
        self,
        queue: str,
        *options: str,
        env: Mapping[str, str],
        name: str | None = None,
        simulated: bool = False,
    ) -> None:
        self.queue = queue
        name = name or queue
        node = f"{SIMULATED}{name}" if simulated else name
        command = worker_command(queue, "--hostname", f"{node}@%h", *options)
        super().__init__(name, command, env={**env, **python_path()})

    def start(self) -> "WorkerProcess":
        """Start the worker and wait until it accepts tasks."""
        return self.launch().wait_until_ready()

    def launch(self) -> "WorkerProcess":
        """Start the worker without waiting."""
        super().start()
        return self

    def wait_until_ready(self) -> "WorkerProcess":
        """Wait until the worker accepts tasks."""
        return self.wait_until(
            lambda: " ready." in self.log.read_text(errors="replace"), timeout=60
        )


class FlowerProcess(LocalProcess):
    """Flower on a loopback port; it shows the tasks that have run since it started.

    The user is `FLOWER_USER` with a generated password, unless ``options`` or the environment
    decide who may use it.
    """

    def __init__(self, *options: str, env: Mapping[str, str], port: int | None = None) -> None:
        self.port = port or free_port()
        self.password = new_password()
        command = flower_command("--address=127.0.0.1", f"--port={self.port}", *options)
        added = flower_environment(given_options(options, {**os.environ, **env}), self.password)
        #: Whether the generated password is needed.
        self.has_login = "FLOWER_BASIC_AUTH" in added
        super().__init__("flower", command, env={**env, **added, **python_path()})

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "FlowerProcess":
        """Start Flower and wait until it responds."""
        super().start()
        self.wait_until(lambda: responds(f"{self.url}/healthcheck"), timeout=60)
        return self

    def wait_for_workers(self, count: int) -> "FlowerProcess":
        """Wait until Flower sees ``count`` workers; it shows no task that ran earlier."""
        return self.wait_until(lambda: self._workers() >= count)

    def _workers(self) -> int:
        return len(self._read("/workers?json=1")["data"])

    def tasks(self) -> dict[str, Any]:
        """Return the tasks that Flower has seen. Raises `LocalProcessError`."""
        try:
            return self._read("/api/tasks")
        except OSError as error:
            raise LocalProcessError(f"Flower does not respond: {error}") from error

    def _read(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}{path}")  # noqa: S310
        if self.has_login:
            login = base64.b64encode(f"{FLOWER_USER}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        with _direct.open(request, timeout=5) as response:
            found: dict[str, Any] = json.load(response)
            return found


def worker_command(queue: str, *options: str) -> list[str]:
    """Return the command that runs a worker; its environment needs `python_path`."""
    if queue not in QUEUES:
        raise ValueError(f"unknown queue: {queue}")
    return [*_celery("worker"), "--queues", queue, *options]


def flower_command(*options: str) -> list[str]:
    """Return the command that runs Flower; its environment needs `python_path`."""
    return [*_celery("flower"), *options]


def _celery(command: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "workers.app", command]


def python_path() -> dict[str, str]:
    """Return the environment variables with which a child imports the application."""
    folders = [str(app_root()), str(package_root())]
    if inherited := os.environ.get("PYTHONPATH"):
        folders.append(inherited)
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(folders)), "PYTHONUNBUFFERED": "1"}


def responds(url: str) -> bool:
    """Return whether an HTTP GET of a loopback address succeeds."""
    try:
        with _direct.open(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
