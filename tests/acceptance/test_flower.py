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


def step_of(flower: FlowerProcess, job: str, name: str) -> dict[str, Any]:
    """Return the task of a step of a job with one shard; empty if there is none yet."""
    found = [task for task in tasks(flower, job) if task["name"] == f"penstock.batch.{name}"]
    return found[0] if found else {}


def test_a_batch_job_shows_its_steps_and_polling_is_waiting_and_not_a_retry(
    flower: FlowerProcess, penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    requests = [{"custom_id": "one", "params": body("a secret prompt")}]
    batches = penstock_client.messages.batches
    penstock_control.configure(batch_seconds=600)
    job = batches.create(requests=requests)
    wait_until(lambda: step_of(flower, job.id, "poll").get("state") == "WAITING")
    waiting = step_of(flower, job.id, "poll")
    assert "is in_progress" in waiting["result"]
    assert "again in" in waiting["result"]
    assert waiting["retries"] == 0
    for batch in penstock_control.batches():
        penstock_control.end_batch(batch["id"])
    list(batches.events(job.id, timeout=30))
    wait_until(lambda: sum(t["state"] == "SUCCESS" for t in tasks(flower, job.id)) == 4)
    steps = {task["name"].rpartition(".")[2]: task for task in tasks(flower, job.id)}
    assert steps.keys() == {"create", "poll", "collect", "finish"}
    assert "'batch_id': 'msgbatch_" in steps["create"]["result"]
    assert "'succeeded': 1" in steps["collect"]["result"]
    assert {step["retries"] for step in steps.values()} == {0}
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
    wait_until(lambda: tasks(flower, stream.id)[0]["state"] == "CANCELED")
    [task] = tasks(flower, stream.id)
    assert "'output_tokens': " in task["result"]
    assert task["runtime"] is not None


def test_a_canceled_job_ends_in_a_canceled_task(
    flower: FlowerProcess, penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    batches = penstock_client.messages.batches
    penstock_control.configure(batch_seconds=16)  # a canceled batch takes a quarter of that
    job = batches.create(requests=[{"custom_id": "one", "params": body()}])
    wait_until(lambda: step_of(flower, job.id, "poll").get("state") == "WAITING")
    batches.cancel(job.id)
    list(batches.events(job.id, timeout=30))
    wait_until(lambda: step_of(flower, job.id, "finish").get("state") == "CANCELED")
    assert "'canceled': 1" in step_of(flower, job.id, "finish")["result"]


def test_a_duplicate_wake_up_is_skipped_and_changes_no_state(
    flower: FlowerProcess, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body("[[sim rate=0]]"))
    request.stream(timeout=20).until_done()
    wait_until(lambda: [t for t in tasks(flower, request.id) if t["state"] == "SUCCESS"])
    app = penstock_client.wakeups._app
    duplicate = app.send_task("penstock.stream", args=(request.id,), queue="streams").id
    wait_until(lambda: {t["state"] for t in tasks(flower, request.id)} == {"SUCCESS", "SKIPPED"})
    states = {task["uuid"]: task["state"] for task in tasks(flower, request.id)}
    assert states == {request.id: "SUCCESS", duplicate: "SKIPPED"}


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([{"model": "m", "messages": ["secret"]}], {}),
        (["Why is the sky blue?"], {}),
        ([], {"model": "m"}),
        ([], {}),
        ([None], {}),
        (["018bcfe5-6880-7000-8000-000000000000", "more"], {}),
    ],
    ids=str,
)
def test_a_task_that_was_not_sent_by_the_client_fails_and_says_how_to_enqueue(
    flower: FlowerProcess, penstock_client: Client, args: list[Any], kwargs: dict[str, Any]
) -> None:
    app = penstock_client.wakeups._app
    id = app.send_task("penstock.stream", args=args, kwargs=kwargs, queue="streams").id
    shown: dict[str, Any] = {}

    def failed() -> bool:
        shown.update(call_flower(flower, "/api/tasks").get(id) or {})
        return shown.get("state") == "FAILURE"

    wait_until(failed)
    assert "messages.enqueue(" in shown["exception"]
    assert "secret" not in shown["exception"] + shown["traceback"]


@pytest.mark.parametrize("args", [[{"requests": ["secret"]}, 0], ["x", 0]], ids=str)
def test_a_batch_task_that_was_not_sent_by_the_client_fails_and_says_how_to_send_a_job(
    flower: FlowerProcess, penstock_client: Client, args: list[Any]
) -> None:
    app = penstock_client.wakeups._app
    id = app.send_task("penstock.batch.create", args=args, queue="batches").id
    shown: dict[str, Any] = {}

    def failed() -> bool:
        shown.update(call_flower(flower, "/api/tasks").get(id) or {})
        return shown.get("state") == "FAILURE"

    wait_until(failed)
    assert "batches.create(" in shown["exception"]
    assert "secret" not in shown["exception"] + shown["traceback"]


def test_both_workers_and_both_queues_are_listed(flower: FlowerProcess) -> None:
    assert len(call_flower(flower, "/api/workers?refresh=1")) == 2
    queues = call_flower(flower, "/api/queues/length")["active_queues"]
    assert {queue["name"] for queue in queues} == {"streams", "batches"}
