"""One stream breaks its worker in a way that no code foresees; the others are completed."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.events import ATTEMPT
from penstock.local.stack import WorkerProcess
from penstock.streams.stream import StreamRequest
from penstock.testing import wait_until
from tests.acceptance.stage import Stage, content, events_of, request_body
from tests.acceptance.workers.planted_faults import FAULTS

EXIT, BLOCK, UNWRITABLE = FAULTS


@pytest.fixture
def stage() -> Iterator[Stage]:
    settings = {
        "PENSTOCK_LEASE_MS": "1500",
        "PENSTOCK_WAKEUP_RETRY_S": "0.5",
        "PENSTOCK_API_RETRY_MAX_WAIT_S": "0.5",
    }
    with Stage(**settings) as stage:
        yield stage


def faulty_worker(stage: Stage) -> WorkerProcess:
    """A worker with planted faults."""
    worker = stage.launch(options=("--include", "tests.acceptance.workers.planted_faults"))
    stage.ready()
    return worker


def started(stage: Stage) -> list[tuple[dict[str, Any], StreamRequest]]:
    """Streams of three seconds that have begun."""
    bodies = [request_body(f"Beside {i}. [[sim deltas=90 rate=30]]") for i in range(4)]
    running = [(body, stage.client.messages.enqueue(**body)) for body in bodies]
    for _, request in running:
        wait_until(request.text, what="some text")
    return running


def break_worker(stage: Stage, model: str) -> StreamRequest:
    return stage.client.messages.enqueue(**request_body("Odd. [[sim rate=0]]", model=model))


def check_complete(stage: Stage, running: list[tuple[dict[str, Any], StreamRequest]]) -> None:
    for body, request in running:
        events = events_of(request, timeout=60)
        assert events[-1].data["state"] == "done"
        assert content(events) == stage.truth(body)


def test_a_worker_whose_event_loop_has_ended_exits_and_others_take_over(stage: Stage) -> None:
    worker = faulty_worker(stage)
    running = started(stage)
    odd = break_worker(stage, EXIT)
    wait_until(lambda: worker.exit_code is not None, what="the worker to exit")
    assert worker.exit_code == 1
    assert "the event loop has ended; the process exits" in worker.log.read_text()
    stage.launch()
    check_complete(stage, running)
    assert events_of(odd)[-1].data["state"] == "done"


def test_a_worker_whose_event_loop_is_blocked_loses_its_streams_and_still_ends(
    stage: Stage,
) -> None:
    worker = faulty_worker(stage)
    running = started(stage)
    odd = break_worker(stage, BLOCK)
    stage.launch()
    check_complete(stage, running)
    assert events_of(odd)[-1].data["state"] == "done"
    assert all(any(e.type == ATTEMPT for e in request.events()) for _, request in running)
    os.kill(worker.pid, signal.SIGTERM)
    wait_until(lambda: worker.exit_code is not None, timeout=30, what="the worker to end")


def test_a_stream_that_cannot_be_written_ends_alone(stage: Stage) -> None:
    worker = faulty_worker(stage)
    running = started(stage)
    odd = break_worker(stage, UNWRITABLE)
    end = events_of(odd)[-1].data
    assert (end["state"], end["error"]["type"]) == ("failed", "internal_error")
    check_complete(stage, running)
    assert all(request.record().fields["attempts"] == "1" for _, request in running)
    os.kill(worker.pid, signal.SIGTERM)
    wait_until(lambda: worker.exit_code is not None, timeout=30, what="the worker to end")
    assert worker.exit_code == 0
