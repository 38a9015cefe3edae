"""Pytest fixtures: a private Redis, the API simulator and real workers.

Add ``pytest_plugins = ["penstock.testing"]`` to your top-level ``conftest.py`` and use a fixture
by naming it as an argument of a test::

    @pytest.mark.usefixtures("penstock_workers")
    def test_an_answer_is_streamed(penstock_client: Client) -> None:
        with penstock_client.messages.stream(
            model="claude-haiku-4-5",
            max_tokens=100,
            messages=[{"role": "user", "content": "Why is the sky blue?"}],
        ) as stream:
            assert "".join(stream.text_stream)

The processes are started once per test session and are stopped at its end.
"""

import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import (
    BROKER_VARIABLES,
    SIMULATOR_KEY,
    SimulatorProcess,
    WorkerProcess,
)
from penstock.simulator.control import Control

#: Settings that make a worker poll and retry quickly, so that tests need not wait.
QUICK: Mapping[str, str] = {
    "PENSTOCK_POLL_INTERVAL_MIN_S": "0.2",
    "PENSTOCK_API_RETRY_MAX_WAIT_S": "0.5",
    "PENSTOCK_LEASE_MS": "2000",
}


def wait_until(condition: Callable[[], object], *, timeout: float = 20.0, what: str = "") -> None:
    """Wait until ``condition()`` is true; fail the test after ``timeout`` seconds.

    ``what`` describes the condition in the failure message.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"timed out after {timeout:g} s waiting for {what or condition}")
        time.sleep(0.01)


@pytest.fixture(scope="session")
def penstock_redis() -> Iterator[EmbeddedRedis]:
    """A private Redis server."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="session")
def penstock_simulator() -> Iterator[SimulatorProcess]:
    """The API simulator; `penstock_control` configures its faults."""
    with SimulatorProcess("--batch-seconds", "0.5") as simulator:
        yield simulator


@pytest.fixture
def penstock_control(penstock_simulator: SimulatorProcess) -> Iterator[Control]:
    """The faults and counters of the simulator, reset before and after each test."""
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
        # Celery prefers these variables to its configuration, so a test could use a real queue.
        **dict.fromkeys(BROKER_VARIABLES, ""),
        # Tests often run as root in containers; this silences the warning of Celery.
        "C_FORCE_ROOT": "1",
    }


@pytest.fixture(scope="session")
def penstock_workers(penstock_environment: Mapping[str, str]) -> Iterator[list[WorkerProcess]]:
    """One worker for streams and one for batches."""
    workers = [WorkerProcess(queue, env=penstock_environment) for queue in ("streams", "batches")]
    try:
        # Started in parallel, since most of the time is spent on imports.
        for worker in workers:
            worker.launch()
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


@pytest.fixture
def penstock_client(
    penstock_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A client connected to the private Redis."""
    for name in BROKER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with Client(penstock_redis.url) as client:
        yield client
