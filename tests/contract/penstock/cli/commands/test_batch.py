"""``penstock batch`` over a real Redis; workers are played by hand."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from penstock.batches.notices import Alert, PauseReason
from penstock.cli import cli
from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.states import State
from penstock.testing import wait_until
from tests.contract.tasks.batches.hand_made import HandMadeJob, requests

Penstock = Callable[..., Result]


@pytest.fixture
def environment(penstock_redis: EmbeddedRedis) -> dict[str, str]:
    url = penstock_redis.url.removesuffix("/0") + "/9"
    return {"PENSTOCK_REDIS_URL": url, "PENSTOCK_SHARD_REQUESTS": "4"}


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[Client]:
    with Client(environment["PENSTOCK_REDIS_URL"], shard_requests=4) as client:
        yield client
        client._redis.flushdb()


@pytest.fixture
def penstock(environment: dict[str, str]) -> Penstock:
    """Runs ``penstock batch``; an unforeseen exception fails the test."""
    runner = CliRunner(env=environment)

    def run(*args: str, input: str | None = None) -> Result:
        return runner.invoke(cli, ["batch", *args], input=input, catch_exceptions=False)

    return run


@pytest.fixture
def job(client: Client) -> HandMadeJob:
    return HandMadeJob(client, 10)


@pytest.fixture
def ended(job: HandMadeJob) -> HandMadeJob:
    """A job that has ended, one line of it in the second round."""
    for shard in job.shards:
        job.collect(shard.number, retried=[1] if shard.number == 0 else [])
    job.collect(job.shards[-1].number)
    job.end(cost=orjson.dumps({"currency": "USD", "batch": 1.5, "live": 3.0}))
    return job


def custom_ids(text: str) -> list[str]:
    return [json.loads(line)["custom_id"] for line in text.split("\n")[:-1]]


def facts(shown: Result) -> dict[str, str]:
    head = shown.stdout.partition("\n\n")[0]
    return {line[:11].strip(): line[11:] for line in head.splitlines()}


# -- submit, list, status ---------------------------------------------------------------------


def test_submit_tells_how_many_batches_it_makes(penstock: Penstock, client: Client) -> None:
    lines = "".join(json.dumps(each) + "\n" for each in requests(10))
    submitted = penstock("submit", "-", input=lines)
    assert submitted.exit_code == 0
    id = submitted.stdout.removesuffix("\n")
    shards = client.messages.batches.retrieve(id).shards
    told = f"10 requests in {len(shards)} batches (penstock batch watch {id})\n"
    assert submitted.stderr == told


def test_a_paused_job_tells_why_and_what_to_do(
    penstock: Penstock, client: Client, job: HandMadeJob
) -> None:
    job.pause(0, "billing_error", "Your credit balance is too low")
    job.alert(1, Alert.DUPLICATE_BATCH, "two of a kind")
    shown = facts(penstock("status", job.id))
    assert shown["state"] == "running (paused)"
    assert shown["paused"].startswith("billing_error: Your credit balance is too low (since ")
    assert shown["to do"] == (
        f"{PauseReason.BILLING_ERROR.remedy}, then: penstock batch resume {job.id}"
    )
    assert shown["alert"].startswith("duplicate_batch: two of a kind (since ")
    listed = penstock("list").stdout
    assert listed.startswith(f"{job.id}  running   ")
    assert "paused by billing_error; 10 processing" in listed
    resumed = penstock("resume", job.id)
    assert resumed.exit_code == 0
    assert resumed.stderr.startswith(f"{job.id} goes on; it was paused by billing_error (")
    assert client.messages.batches.retrieve(job.id).paused is None
    assert penstock("resume", job.id).stderr == f"{job.id} was not paused\n"


def test_a_money_cap_is_shown_and_raised(
    penstock: Penstock, client: Client, job: HandMadeJob
) -> None:
    refused = penstock("resume", job.id, "--max-cost", "3")
    assert refused.exit_code == 1
    assert refused.stderr == "penstock: max_cost_usd: the job was submitted without one\n"
    client._redis.hset(job.keys.money, mapping={"cap": 2_000_000, "spent": 1_900_000})
    client._redis.expire(job.keys.money, 100)
    job.pause(0, "cost_limit", "shard 1 can cost more than is left")
    shown = facts(penstock("status", job.id))
    assert shown["money cap"] == "2.00 USD: 1.90 spent"
    assert shown["to do"].endswith(f"penstock batch resume {job.id} --max-cost USD")
    resumed = penstock("resume", job.id, "--max-cost", "3.5")
    assert resumed.exit_code == 0
    assert resumed.stderr.startswith(f"{job.id} may cost 3.50 USD now\n{job.id} goes on; ")
    assert facts(penstock("status", job.id))["money cap"] == "3.50 USD: 1.90 spent"


def test_status_has_a_line_for_each_batch(penstock: Penstock, ended: HandMadeJob) -> None:
    shown = penstock("status", ended.id).stdout
    rows = [line.split() for line in shown.partition("\n\n")[2].splitlines()[1:]]
    assert [row[0] for row in rows] == [str(shard.number) for shard in ended.shards]
    assert rows[0][1:4] == ["collected", str(ended.shards[0].requests), "msgbatch_0"]
    assert rows[0][-3:] == ["1", "tried", "again"]
    assert rows[-1][-2:] == ["round", "2"]
    said = facts(penstock("status", ended.id))
    assert said["requests"].startswith("10: 10 succeeded, 0 errored")
    assert said["cost"].startswith("1.50 USD; live it would be 3.00 (50% saved)")
    assert said["tokens"] == "30 input_tokens"


def test_status_as_json_has_everything(penstock: Penstock, job: HandMadeJob) -> None:
    job.pause(0)
    said = json.loads(penstock("status", job.id, "--json").stdout)
    assert said["paused"]["type"] == "billing_error"
    assert said["progress"] == {
        "shards": len(job.shards), "ended": 0, "collected": 0, "active": 0, "rounds": 0
    }  # fmt: skip
    assert said["type"] == "message_batch"


# -- watch, cancel, delete --------------------------------------------------------------------


def test_watch_follows_a_job_through_a_pause(
    environment: dict[str, str], client: Client, job: HandMadeJob
) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "batch", "watch", job.id],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    seen: list[str] = []

    def until(beginning: str) -> None:
        while not (seen and seen[-1].startswith(beginning)):
            line = watching.stdout.readline()  # type: ignore[union-attr]
            assert line, f"no {beginning!r} after {seen}"
            seen.append(line)

    until(f"10 requests in {len(job.shards)} batches")
    job.begin(0)
    until("shard 0  in_progress  msgbatch_0")
    job.pause(1, "authentication_error", "invalid x-api-key")
    until(
        "paused  authentication_error: invalid x-api-key "
        f"({PauseReason.AUTHENTICATION_ERROR.remedy}, then: "
    )
    client.messages.batches.resume(job.id)
    until("resumed")
    job.collect(1)
    until("shard 1  collected    msgbatch_1")
    job.end(State.CANCELED)
    until("canceled  ")
    _, stderr = watching.communicate(timeout=30)
    assert watching.returncode == 1
    assert stderr.endswith(f"penstock: {job.id} was canceled\n")
    assert len(seen) == len(set(seen))


def test_watch_ends_by_ctrl_c_and_says_that_the_job_goes_on(
    environment: dict[str, str], job: HandMadeJob
) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "batch", "watch", job.id],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("10 requests")
    watching.send_signal(signal.SIGINT)
    _, stderr = watching.communicate(timeout=30)
    assert watching.returncode == 130
    told = f"penstock: interrupted; the job goes on: penstock batch watch {job.id}\n"
    assert stderr == told


def test_a_job_is_deleted_only_when_it_has_ended_and_one_is_sure(
    penstock: Penstock, client: Client, job: HandMadeJob
) -> None:
    early = penstock("delete", job.id, "--yes")
    assert early.exit_code == 1
    assert early.stderr == f"penstock: {job.id} has not ended: cancel it first\n"
    for shard in job.shards:
        job.collect(shard.number)
    job.end()
    unsure = penstock("delete", job.id)
    assert unsure.exit_code == 1
    assert unsure.stderr == "penstock: this removes 10 results for good; if so, say --yes\n"
    assert client.messages.batches.retrieve(job.id).state is State.DONE
    assert penstock("delete", job.id, "--yes").stderr == f"{job.id} is removed\n"
    assert penstock("status", job.id).exit_code == 1
    assert penstock("resume", job.id).exit_code == 1


def test_what_has_ended_cannot_be_resumed(penstock: Penstock, ended: HandMadeJob) -> None:
    refused = penstock("resume", ended.id)
    assert refused.exit_code == 1
    assert refused.stderr == f"penstock: {ended.id} has ended: done\n"


# -- results ----------------------------------------------------------------------------------


def test_results_come_in_the_order_that_is_asked_for(
    penstock: Penstock, client: Client, ended: HandMadeJob
) -> None:
    batches = client.messages.batches
    for order in ("completed", "submitted"):
        lines = list(batches.result_lines(ended.id, order=order))
        shown = penstock("results", ended.id, "--order", order)
        assert shown.stdout_bytes == b"".join(line + b"\n" for line in lines)
    assert custom_ids(shown.stdout) == [f"line-{i}" for i in range(10)]


def test_results_of_a_running_job_are_told_how_to_be_had(
    penstock: Penstock, job: HandMadeJob, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    refused = penstock("results", job.id, "-o", str(path))
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"penstock: {job.id} has not ended. ")
    assert refused.stderr.endswith(f"penstock batch results {job.id} --wait\n")
    refused = penstock("results", job.id, "--wait", "--order", "submitted")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("penstock: order: results in the order of submission ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--resume"], "--resume needs -o FILE"),
        (["--parquet"], "--parquet needs -o FILE"),
        (["--resume", "-o", "x.parquet"], "a Parquet file cannot be gone on with"),
    ],
)
def test_what_does_not_go_together_is_wrong_use(
    penstock: Penstock, args: list[str], told: str
) -> None:
    refused = penstock("results", "any", *args)
    assert refused.exit_code == 2
    assert told in refused.stderr


def test_results_that_were_interrupted_are_gone_on_with(
    environment: dict[str, str],
    penstock: Penstock,
    client: Client,
    job: HandMadeJob,
    tmp_path: Path,
) -> None:
    path, part = tmp_path / "x.jsonl", tmp_path / "x.jsonl.part"
    job.collect(1)
    first = job.shards[1].requests
    args = ["batch", "results", job.id, "-o", str(path), "--wait"]
    fetching = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", *args],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: part.exists() and part.read_bytes().count(b"\n") == first)
    fetching.send_signal(signal.SIGINT)
    _, stderr = fetching.communicate(timeout=30)
    assert fetching.returncode == 130
    again = f"penstock batch results {job.id} -o {path} --wait --resume"
    assert stderr.startswith(f"{first} results kept in {part}; to go on: {again}\n")
    assert not path.exists()
    with part.open("ab") as file:
        file.write(b'{"custom_id":"li')  # a line that was cut
    for number in [shard.number for shard in job.shards if shard.number != 1]:
        job.collect(number)
    job.end()
    resumed = penstock("results", job.id, "-o", str(path), "--resume")
    assert resumed.stderr == f"10 results in {path}\n"
    lines = list(client.messages.batches.result_lines(job.id))
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_of_something_else_is_not_gone_on_with(
    penstock: Penstock, client: Client, ended: HandMadeJob, tmp_path: Path
) -> None:
    path, part = tmp_path / "x.jsonl", tmp_path / "x.jsonl.part"
    lines = list(client.messages.batches.result_lines(ended.id, order="submitted"))
    kept = b"".join(line + b"\n" for line in lines[:3])
    part.write_bytes(kept)
    refused = penstock("results", ended.id, "-o", str(path), "--resume")
    assert refused.exit_code == 1
    assert f"penstock: {part} holds results of another job, or in another order" in refused.stderr
    assert part.read_bytes() == kept
    resumed = penstock("results", ended.id, "-o", str(path), "--resume", "--order", "submitted")
    assert resumed.stderr == f"10 results in {path}\n"
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)


def test_results_that_have_expired_are_one_line(
    penstock: Penstock, client: Client, ended: HandMadeJob, tmp_path: Path
) -> None:
    client._redis.delete(ended.keys.chunks(ended.shards[0].results))
    path = tmp_path / "x.jsonl"
    refused = penstock("results", ended.id, "-o", str(path))
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"penstock: the results of {ended.id} are not complete any ")
    assert refused.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [("x.parquet",), ("x.pq", "--parquet")])
def test_results_are_written_as_parquet(
    penstock: Penstock, ended: HandMadeJob, tmp_path: Path, args: tuple[str, ...]
) -> None:
    path = tmp_path / args[0]
    written = penstock("results", ended.id, "--order", "submitted", "-o", str(path), *args[1:])
    assert written.stderr == f"10 results in {path}\n"
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    assert [row["custom_id"] for row in rows] == [f"line-{i}" for i in range(10)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_job_says_what_has_no_result(
    penstock: Penstock, job: HandMadeJob, tmp_path: Path
) -> None:
    job.collect(1)
    error = {"type": "results_expired", "message": "nobody came for them"}
    job.end(State.FAILED, error=orjson.dumps(error))
    path = tmp_path / "x.jsonl"
    written = penstock("results", job.id, "-o", str(path))
    count = job.shards[1].requests
    assert written.exit_code == 0
    assert written.stderr.splitlines() == [
        f"{count} results in {path}",
        f"{10 - count} requests without a result",
        "the job failed: results_expired: nobody came for them",
    ]
    watched = penstock("watch", job.id)
    assert watched.exit_code == 1
    assert watched.stderr.endswith("penstock: results_expired: nobody came for them\n")
