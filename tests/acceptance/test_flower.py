"""What Flower shows, read from the REST API of a real Flower process."""

import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from penstock import Client, RequestCanceled
from penstock.local.stack import FlowerProcess, WorkerProcess
from penstock.simulator.control import Control
from penstock.testing import wait_until

Body = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")


@pytest.fixture(scope="module")
def flower(
    penstock_environment: Mapping[str, str], penstock_workers: list[WorkerProcess]
) -> Iterator[FlowerProcess]:
    env = {**penstock_environment, "FLOWER_UNAUTHENTICATED_API": "true"}
    with FlowerProcess(env=env) as process:
        yield process.wait_for_workers(2)


def call_flower(flower: FlowerProcess, path: str, *, method: str = "GET") -> Any:
    request = urllib.request.Request(  # noqa: S310 - a loopback address
        f"{flower.url}{path}", method=method, data=b"" if method == "POST" else None
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return json.load(response)


def tasks(flower: FlowerProcess, marker: str) -> list[dict[str, Any]]:
    """Return the tasks whose arguments contain this id."""
    return [
        task
        for task in call_flower(flower, "/api/tasks").values()
        if marker in (task["args"] or "")
    ]


def test_a_stream_task_shows_its_id_kind_model_and_result(
    flower: FlowerProcess, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body("a secret prompt [[sim rate=0]]"))
    request.stream(timeout=20).until_done()
    wait_until(lambda: [t for t in tasks(flower, request.id) if t["state"] == "SUCCESS"])
    [task] = tasks(flower, request.id)
    assert task["name"] == "penstock.stream"
    assert task["uuid"] == request.id
    assert "'kind': 'stream'" in task["kwargs"]
    assert "'model': 'claude-haiku-4-5'" in task["kwargs"]
    fields = ("'stop_reason': 'end_turn'", "'output_tokens': ", "'first_delta_ms': ")
    for field in (*fields, "'simulated': True"):
        assert field in task["result"]
    assert "secret" not in json.dumps(task)


def test_a_batch_job_shows_its_steps_and_why_it_polls_again(
    flower: FlowerProcess, penstock_client: Client, body: Body
) -> None:
    requests = [{"custom_id": "one", "params": body("a secret prompt")}]
    job = penstock_client.messages.batches.create(requests=requests)
    list(penstock_client.messages.batches.events(job.id, timeout=30))
    wait_until(lambda: sum(t["state"] == "SUCCESS" for t in tasks(flower, job.id)) == 4)
    steps = {task["name"].rpartition(".")[2]: task for task in tasks(flower, job.id)}
    assert steps.keys() == {"create", "poll", "collect", "finish"}
    assert "'batch_id': 'msgbatch_" in steps["create"]["result"]
    assert "'succeeded': 1" in steps["collect"]["result"]
    assert "is in_progress" in steps["poll"]["exception"]
    assert "again in" in steps["poll"]["exception"]
    assert all("'model': 'claude-haiku-4-5'" in step["kwargs"] for step in steps.values())
    assert "secret" not in json.dumps(steps)


def test_a_failed_stream_is_a_failed_task_without_the_message_of_the_api(
    flower: FlowerProcess, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body("secret", model="gpt-secret"))
    wait_until(lambda: [t for t in tasks(flower, request.id) if t["state"] == "FAILURE"])
    [task] = tasks(flower, request.id)
    assert "not_found_error (HTTP 404), request req_" in task["exception"]
    assert "model: gpt-secret" not in (task["exception"] + (task["traceback"] or ""))


def test_the_terminate_button_cancels_a_stream(
    flower: FlowerProcess, penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    stream = penstock_client.messages.stream(**body("[[sim deltas=2000 rate=50]]"), timeout=20)
    next(stream.text_stream)
    call_flower(flower, f"/api/task/revoke/{stream.id}?terminate=true", method="POST")
    with pytest.raises(RequestCanceled, match="terminate"):
        stream.until_done()
    wait_until(lambda: penstock_control.stats()["open_streams"] == 0)


def test_both_workers_and_both_queues_are_listed(flower: FlowerProcess) -> None:
    assert len(call_flower(flower, "/api/workers?refresh=1")) == 2
    queues = call_flower(flower, "/api/queues/length")["active_queues"]
    assert {queue["name"] for queue in queues} == {"streams", "batches"}
