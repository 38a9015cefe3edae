"""Pytest fixtures for testing against Penstock: a private Redis, the API simulator, real workers.

Put ``pytest_plugins = ["penstock.testing"]`` into your top ``conftest.py``; then name a fixture as
a test's argument and it is there. The processes are started once per test session and end with
it.
"""

import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import SIMULATOR_KEY, SimulatorProcess, WorkerProcess
from penstock.simulator.control import Control

#: Settings that make a worker quick to try again, so that tests need not wait.
QUICK: Mapping[str, str] = {
    "PENSTOCK_POLL_INTERVAL_MIN_S": "0.2",
    "PENSTOCK_API_RETRY_MAX_WAIT_S": "0.5",
    "PENSTOCK_LEASE_MS": "2000",
}


def wait_until(condition: Callable[[], object], *, timeout: float = 20.0, what: str = "") -> None:
    """Wait until ``condition()`` is true. Fails the test after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s in vain for {what or condition}")
        time.sleep(0.01)


@pytest.fixture(scope="session")
def penstock_redis() -> Iterator[EmbeddedRedis]:
    """A private Redis server."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="session")
def penstock_simulator() -> Iterator[SimulatorProcess]:
    """The API simulator; `penstock_control` steers it."""
    with SimulatorProcess("--batch-seconds", "0.5") as simulator:
        yield simulator


@pytest.fixture
def penstock_control(penstock_simulator: SimulatorProcess) -> Iterator[Control]:
    """Faults and counters of the simulator, reset around each test."""
    control = Control(penstock_simulator.url)
    control.reset()
    yield control
    control.reset()


@pytest.fixture(scope="session")
def penstock_environment(
    penstock_redis: EmbeddedRedis, penstock_simulator: SimulatorProcess
) -> dict[str, str]:
    """The environment that points a process at the private Redis and the simulator."""
    return {
        "PENSTOCK_REDIS_URL": penstock_redis.url,
        "ANTHROPIC_BASE_URL": penstock_simulator.url,
        "ANTHROPIC_API_KEY": SIMULATOR_KEY,
        **QUICK,
        # root is usual in containers; Celery's warning about it would only hide real output
        "C_FORCE_ROOT": "1",
    }


@pytest.fixture(scope="session")
def penstock_workers(penstock_environment: Mapping[str, str]) -> Iterator[list[WorkerProcess]]:
    """A worker for streams and one for batches."""
    workers = [WorkerProcess(queue, env=penstock_environment) for queue in ("streams", "batches")]
    try:
        # Started together: most of a start is imports.
        for worker in workers:
            worker.launch()
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


@pytest.fixture
def penstock_client(penstock_redis: EmbeddedRedis) -> Iterator[Client]:
    """A client of the private Redis."""
    with Client(penstock_redis.url) as client:
        yield client
