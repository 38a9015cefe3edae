"""Every signal that ends a worker hands its work over; only the terminate button cancels."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from penstock.batches.shard import Counts
from penstock.events import END
from penstock.local.stack import SIMULATOR_KEY, WorkerProcess
from penstock.streams.stream import StreamRequest
from penstock.testing import wait_until
from tests.acceptance.stage import Stage, content, events_of, request_body, resumes

SURVIVOR = "not stopped"
#: How a worker is stopped → signals, settings.
STOPS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "SIGQUIT": ([signal.SIGQUIT], {}),
    "SIGTERM as SIGQUIT": ([signal.SIGTERM], {"REMAP_SIGTERM": "SIGQUIT"}),
    "Ctrl-C twice": ([signal.SIGINT, signal.SIGINT], {}),
}


@dataclass
class Stopped:
    """Streams, and the workers that ran them until each was stopped in a way of its own."""

    stage: Stage
    workers: dict[str, WorkerProcess]
    bodies: list[dict[str, Any]]
    requests: list[StreamRequest]
    ran: dict[str, list[int]]  #: way of stopping → indices of its streams


@pytest.fixture(scope="module")
def stopped() -> Iterator[Stopped]:
    with Stage(PENSTOCK_LEASE_MS="5000", PENSTOCK_WAKEUP_RETRY_S="30") as stage:
        workers = {how: stage.launch(**env) for how, (_, env) in STOPS.items()}
        workers[SURVIVOR] = stage.launch()
        stage.ready()
        bodies = [request_body(f"Stopped {i}. [[sim deltas=90 rate=30]]") for i in range(24)]
        requests = [stage.client.messages.enqueue(**body) for body in bodies]
        ran: dict[str, list[int]] = {how: [] for how in workers}
        for i, request in enumerate(requests):
            wait_until(request.text, what="some text")
            worker = stage.worker_of(request)
            [how] = [how for how, each in workers.items() if each is worker]
            ran[how].append(i)
        for how, (signals, _) in STOPS.items():
            send(workers[how], signals)
        yield Stopped(stage, workers, bodies, requests, ran)


def send(worker: WorkerProcess, signals: list[int]) -> None:
    """Send signals, each as soon as the worker has noticed the one before."""
    os.kill(worker.pid, signals[0])
    for number in signals[1:]:
        wait_until(lambda: "worker: " in worker.log.read_text(), what="the first signal")
        os.kill(worker.pid, number)


def has_said(worker: WorkerProcess, words: str) -> bool:
    return words in worker.log.read_text()


@pytest.mark.parametrize("how", STOPS)
def test_a_signal_that_ends_a_worker_hands_its_streams_over(stopped: Stopped, how: str) -> None:
    assert stopped.ran[how]
    for i in stopped.ran[how]:
        request, body = stopped.requests[i], stopped.bodies[i]
        events = events_of(request)
        assert events[-1].data["state"] == "done"
        assert content(events) == stopped.stage.truth(body)
        assert {reason for _, reason in resumes(events)} == {"takeover"}
        # A stream may have been handed to another worker that was then stopped as well, perhaps
        # before its call was answered: such a call counts, and readers do not see it.
        attempts = events[-1].data["attempts"]
        assert 1 + len(resumes(events)) <= attempts <= 1 + len(STOPS)
        assert not {"worker_losses", "woken"} & request.record().fields.keys()
    worker = stopped.workers[how]
    wait_until(lambda: worker.exit_code is not None, timeout=30, what="the worker to end")
    assert worker.exit_code in (0, 1)
    assert "Traceback" not in worker.log.read_text()


def test_a_create_call_that_a_signal_interrupts_is_neither_canceled_nor_repeated(
    stopped: Stopped,
) -> None:
    stage = stopped.stage
    env = {
        "PENSTOCK_REDIS_URL": stage.redis.url,
        "ANTHROPIC_BASE_URL": stage.simulator.url,
        "ANTHROPIC_API_KEY": SIMULATOR_KEY,
        "PENSTOCK_LEASE_MS": "1500",
        "PENSTOCK_WAKEUP_RETRY_S": "0.5",
        "C_FORCE_ROOT": "1",
    }
    first, second = (WorkerProcess("batches", env=env, name=f"batches-{i}") for i in range(2))
    stage.control.fault(path="/v1/messages/batches", method="POST", commit_after_s=2)
    stage.control.configure(batch_seconds=0.1)
    batches = stage.client.messages.batches
    stage.workers.append(first.launch())
    params = [request_body(f"Line {i}.") for i in range(3)]
    requests = [{"custom_id": f"line-{i}", "params": each} for i, each in enumerate(params)]
    job = batches.create(requests=requests)
    wait_until(lambda: stage.control.requests(1)[0]["path"] == "/v1/messages/batches", timeout=60)
    # Ctrl-C: shut down, at once, once more, whatever it costs.
    for said in ("initiate cold shutdown", "terminate all running tasks", "to complete...", ""):
        os.kill(first.pid, signal.SIGINT)
        wait_until(partial(has_said, first, said), what=said)
    stage.workers.append(second.launch())
    wait_until(lambda: first.exit_code is not None, what="the worker to end")
    assert [
        event.data["state"] for event in batches.events(job.id, timeout=60) if event.type == END
    ]
    assert batches.retrieve(job.id).request_counts == Counts(succeeded=3)
    assert stage.control.stats()["batches_created"] == 1
