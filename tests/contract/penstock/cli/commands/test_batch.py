"""``penstock batch`` on a real Redis; the tests write what workers would write."""

import gzip
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
from tests.connections import redis_of
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
        redis_of(client).flushdb()


@pytest.fixture
def penstock(environment: dict[str, str]) -> Penstock:
    """Runs ``penstock batch``; an unexpected exception fails the test."""
    runner = CliRunner(env=environment)

    def run(*args: str, input: str | bytes | None = None) -> Result:
        return runner.invoke(cli, ["batch", *args], input=input, catch_exceptions=False)

    return run


@pytest.fixture
def job(client: Client) -> HandMadeJob:
    return HandMadeJob(client, 10)


@pytest.fixture
def ended(job: HandMadeJob) -> HandMadeJob:
    """A job that has ended, one of its requests in a retry round."""
    for shard in job.shards:
        job.collect(shard.number, retried=[1] if shard.number == 0 else [])
    job.collect(job.shards[-1].number)
    job.end(cost=orjson.dumps({"currency": "USD", "batch": 1.5, "live": 3.0}))
    return job


def custom_ids(text: str) -> list[str]:
    return [json.loads(line)["custom_id"] for line in text.split("\n")[:-1]]


def fields(shown: Result) -> dict[str, str]:
    head = shown.stdout.partition("\n\n")[0]
    return {line[:11].strip(): line[11:] for line in head.splitlines()}


# -- submit, list, status ---------------------------------------------------------------------


def test_submit_prints_the_number_of_batches(penstock: Penstock, client: Client) -> None:
    lines = "".join(json.dumps(each) + "\n" for each in requests(10))
    submitted = penstock("submit", "-", input=lines)
    assert submitted.exit_code == 0
    id = submitted.stdout.removesuffix("\n")
    shards = client.messages.batches.retrieve(id).shards
    note = f"submitted 10 requests in {len(shards)} batches; to watch the job: "
    assert submitted.stderr == f"{note}penstock batch watch {id}\n"


def test_submit_reads_a_compressed_array(penstock: Penstock, client: Client) -> None:
    compressed = gzip.compress(json.dumps(list(requests(10))).encode())
    submitted = penstock("submit", "-", input=compressed)
    assert submitted.exit_code == 0
    job = client.messages.batches.retrieve(submitted.stdout.strip())
    assert job.request_counts.total == 10


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ('{"score": NaN}', "line 4: params.metadata.score: nan is not a number in JSON"),
        ('{"score": 1e999}', "line 4: params.metadata.score: inf is not a number in JSON"),
        ('{"\\ud83d": 1}', "line 4: params.metadata.\\ud83d: has half a surrogate pair"),
        ('{"a": "\\ude00"}', "line 4: params.metadata.a: has half a surrogate pair"),
    ],
)
def test_a_value_that_cannot_be_sent_is_reported_with_line_and_field(
    penstock: Penstock, params: str, message: str
) -> None:
    first, second = (json.dumps(each) for each in requests(2))
    bad = second.replace('"params": {', f'"params": {{"metadata": {params}, ')
    submitted = penstock("submit", "-", input=f"{first}\n\n\n{bad}\n")
    assert submitted.exit_code == 1
    assert submitted.stderr.startswith(f"penstock: {message}")


def test_a_paused_job_shows_its_reason_and_remedy(
    penstock: Penstock, client: Client, job: HandMadeJob
) -> None:
    job.pause(0, "billing_error", "Your credit balance is too low")
    job.alert(1, Alert.DUPLICATE_BATCH, "two batches match")
    shown = fields(penstock("status", job.id))
    assert shown["state"] == "running (paused)"
    assert shown["paused"].startswith("billing_error: Your credit balance is too low (since ")
    assert shown["action"] == (
        f"{PauseReason.BILLING_ERROR.remedy}, then: penstock batch resume {job.id}"
    )
    assert shown["alert"].startswith("duplicate_batch: two batches match (since ")
    listed = penstock("list").stdout
    assert listed.startswith(f"{job.id}  running   ")
    assert "paused by billing_error; 10 processing" in listed
    resumed = penstock("resume", job.id)
    assert resumed.exit_code == 0
    assert resumed.stderr.startswith(f"resumed {job.id} (paused by billing_error); ")
    assert client.messages.batches.retrieve(job.id).paused is None
    assert penstock("resume", job.id).stderr == f"{job.id} was not paused\n"


def test_a_cost_cap_is_shown_and_raised(
    penstock: Penstock, client: Client, job: HandMadeJob
) -> None:
    refused = penstock("resume", job.id, "--max-cost", "3")
    assert refused.exit_code == 1
    assert refused.stderr == "penstock: max_cost_usd: the job was submitted without a cost cap\n"
    redis_of(client).hset(job.keys.money, mapping={"cap": 2_000_000, "spent": 1_900_000})
    redis_of(client).expire(job.keys.money, 100)
    job.pause(0, "cost_limit", "shard 1 can cost more than is left")
    shown = fields(penstock("status", job.id))
    assert shown["cost cap"] == "2.00 USD (1.90 spent)"
    assert shown["action"].endswith(f"penstock batch resume {job.id} --max-cost USD")
    resumed = penstock("resume", job.id, "--max-cost", "3.5")
    assert resumed.exit_code == 0
    first, second = resumed.stderr.splitlines()
    assert first == f"set the cost cap of {job.id} to 3.50 USD"
    assert second.startswith(f"resumed {job.id} (paused by cost_limit); ")
    assert fields(penstock("status", job.id))["cost cap"] == "3.50 USD (1.90 spent)"


def test_status_has_a_line_for_each_batch(penstock: Penstock, ended: HandMadeJob) -> None:
    shown = penstock("status", ended.id).stdout
    rows = [line.split() for line in shown.partition("\n\n")[2].splitlines()[1:]]
    assert [row[0] for row in rows] == [str(shard.number) for shard in ended.shards]
    assert rows[0][1:4] == ["collected", str(ended.shards[0].requests), "msgbatch_0"]
    assert rows[0][-2:] == ["1", "retried"]
    assert rows[-1][-3:] == ["retry", "round", "1"]
    status = fields(penstock("status", ended.id))
    assert status["requests"].startswith("10: 10 succeeded, 0 errored")
    assert status["cost"] == "1.50 USD (50% less than 3.00 for live calls)"
    assert status["tokens"] == "30 input_tokens"


def test_status_as_json_has_all_fields(penstock: Penstock, job: HandMadeJob) -> None:
    job.pause(0)
    status = json.loads(penstock("status", job.id, "--json").stdout)
    assert status["paused"]["type"] == "billing_error"
    assert status["progress"] == {
        "shards": len(job.shards), "ended": 0, "collected": 0, "active": 0, "rounds": 0
    }  # fmt: skip
    assert status["type"] == "message_batch"


# -- watch, cancel, delete --------------------------------------------------------------------


def test_watch_continues_while_a_job_is_paused(
    environment: dict[str, str], client: Client, job: HandMadeJob
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "batch", "watch", job.id],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen: list[str] = []

    def read_until(beginning: str) -> None:
        while not (seen and seen[-1].startswith(beginning)):
            line = process.stdout.readline()  # type: ignore[union-attr]
            assert line, f"no {beginning!r} after {seen}"
            seen.append(line)

    read_until(f"10 requests in {len(job.shards)} batches")
    job.begin(0)
    read_until("shard 0  in_progress  msgbatch_0")
    job.pause(1, "authentication_error", "invalid x-api-key")
    read_until(
        "paused  authentication_error: invalid x-api-key "
        f"({PauseReason.AUTHENTICATION_ERROR.remedy}, then: "
    )
    client.messages.batches.resume(job.id)
    read_until("resumed")
    job.collect(1)
    read_until("shard 1  collected    msgbatch_1")
    job.end(State.CANCELED)
    read_until("canceled  ")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.endswith(f"penstock: {job.id} was canceled\n")
    assert len(seen) == len(set(seen))


def test_ctrl_c_ends_watch_and_prints_that_the_job_continues(
    environment: dict[str, str], job: HandMadeJob
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "batch", "watch", job.id],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("10 requests")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    message = "penstock: interrupted; the job continues. To watch the job: penstock batch watch"
    assert stderr == f"{message} {job.id}\n"


def test_a_job_is_deleted_only_if_it_has_ended_and_yes_is_given(
    penstock: Penstock, client: Client, job: HandMadeJob
) -> None:
    early = penstock("delete", job.id, "--yes")
    assert early.exit_code == 1
    assert early.stderr == f"penstock: {job.id} has not ended: cancel it first\n"
    for shard in job.shards:
        job.collect(shard.number)
    job.end()
    unconfirmed = penstock("delete", job.id)
    assert unconfirmed.exit_code == 1
    assert (
        unconfirmed.stderr
        == "penstock: this permanently deletes 10 results; to confirm, add --yes\n"
    )
    assert client.messages.batches.retrieve(job.id).state is State.DONE
    assert penstock("delete", job.id, "--yes").stderr == f"deleted {job.id}\n"
    assert penstock("status", job.id).exit_code == 1
    assert penstock("resume", job.id).exit_code == 1


def test_an_ended_job_cannot_be_resumed(penstock: Penstock, ended: HandMadeJob) -> None:
    refused = penstock("resume", ended.id)
    assert refused.exit_code == 1
    assert refused.stderr == f"penstock: {ended.id} has already ended: done\n"


# -- results ----------------------------------------------------------------------------------


def test_results_are_written_in_the_requested_order(
    penstock: Penstock, client: Client, ended: HandMadeJob
) -> None:
    batches = client.messages.batches
    for order in ("completed", "submitted"):
        lines = list(batches.result_lines(ended.id, order=order))
        shown = penstock("results", ended.id, "--order", order)
        assert shown.stdout_bytes == b"".join(line + b"\n" for line in lines)
    assert custom_ids(shown.stdout) == [f"line-{i}" for i in range(10)]


def test_results_of_a_running_job_are_refused_with_the_command_that_waits(
    penstock: Penstock, job: HandMadeJob, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    refused = penstock("results", job.id, "-o", str(path))
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"penstock: {job.id} has not ended; ")
    assert refused.stderr.endswith(f"penstock batch results {job.id} --wait\n")
    refused = penstock("results", job.id, "--wait", "--order", "submitted")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("penstock: order: results in the order of submission ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--resume"], "--resume requires -o FILE"),
        (["--parquet"], "--parquet requires -o FILE"),
        (["--resume", "-o", "x.parquet"], "--resume is not supported for Parquet output"),
        (["-o", "x.csv"], "so FILE cannot be named *.csv"),
        (["-o", "answers.JSONL.GZ"], "so FILE cannot be named *.GZ"),
        (["-o", "x.xlsx", "--resume"], "so FILE cannot be named *.xlsx"),
    ],
)
def test_options_that_exclude_each_other_are_a_usage_error(
    penstock: Penstock, args: list[str], message: str
) -> None:
    refused = penstock("results", "any", *args)
    assert refused.exit_code == 2
    assert message in refused.stderr


def test_an_interrupted_download_of_results_is_resumed(
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
    download = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", *args],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: part.exists() and part.read_bytes().count(b"\n") == first)
    download.send_signal(signal.SIGINT)
    _, stderr = download.communicate(timeout=30)
    assert download.returncode == 130
    command = f"penstock batch results {job.id} -o {path} --wait --resume"
    assert stderr.startswith(f"kept {first} results in {part}; to resume: {command}\n")
    assert not path.exists()
    with part.open("ab") as file:
        file.write(b'{"custom_id":"li')  # an incomplete line
    for number in [shard.number for shard in job.shards if shard.number != 1]:
        job.collect(number)
    job.end()
    resumed = penstock("results", job.id, "-o", str(path), "--resume")
    assert resumed.stderr == f"wrote 10 results to {path}\n"
    lines = list(client.messages.batches.result_lines(job.id))
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_file_of_other_results_is_not_resumed(
    penstock: Penstock, client: Client, ended: HandMadeJob, tmp_path: Path
) -> None:
    path, part = tmp_path / "x.jsonl", tmp_path / "x.jsonl.part"
    lines = list(client.messages.batches.result_lines(ended.id, order="submitted"))
    kept = b"".join(line + b"\n" for line in lines[:3])
    part.write_bytes(kept)
    refused = penstock("results", ended.id, "-o", str(path), "--resume")
    assert refused.exit_code == 1
    assert f"penstock: {part} holds results of another job or in another order" in refused.stderr
    assert part.read_bytes() == kept
    resumed = penstock("results", ended.id, "-o", str(path), "--resume", "--order", "submitted")
    assert resumed.stderr == f"wrote 10 results to {path}\n"
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)


def test_expired_results_are_reported_in_one_line(
    penstock: Penstock, client: Client, ended: HandMadeJob, tmp_path: Path
) -> None:
    redis_of(client).delete(ended.keys.chunks(ended.shards[0].results))
    path = tmp_path / "x.jsonl"
    refused = penstock("results", ended.id, "-o", str(path))
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"penstock: the results of {ended.id} are no longer complete ")
    assert refused.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [("x.parquet",), ("X.PARQUET",), ("x.pq", "--parquet")])
def test_results_are_written_as_parquet(
    penstock: Penstock, ended: HandMadeJob, tmp_path: Path, args: tuple[str, ...]
) -> None:
    path = tmp_path / args[0]
    written = penstock("results", ended.id, "--order", "submitted", "-o", str(path), *args[1:])
    assert written.stderr == f"wrote 10 results to {path}\n"
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    assert [row["custom_id"] for row in rows] == [f"line-{i}" for i in range(10)]
    assert list(tmp_path.iterdir()) == [path]


def test_the_missing_results_of_a_failed_job_are_reported(
    penstock: Penstock, job: HandMadeJob, tmp_path: Path
) -> None:
    job.collect(1)
    error = {"type": "results_expired", "message": "not collected in time"}
    job.end(State.FAILED, error=orjson.dumps(error))
    path = tmp_path / "x.jsonl"
    written = penstock("results", job.id, "-o", str(path))
    count = job.shards[1].requests
    assert written.exit_code == 0
    assert written.stderr.splitlines() == [
        f"wrote {count} results to {path}",
        f"{10 - count} requests without a result",
        "the job failed: results_expired: not collected in time",
    ]
    watched = penstock("watch", job.id)
    assert watched.exit_code == 1
    assert watched.stderr.endswith("penstock: results_expired: not collected in time\n")
