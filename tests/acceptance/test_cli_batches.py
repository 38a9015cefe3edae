"""``penstock batch`` against real workers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock import Client, State
from penstock.cli import cli
from penstock.cli.command_error import UNSUCCESSFUL
from penstock.simulator.control import Control
from penstock.testing import wait_until

Penstock = Callable[..., Result]
Body = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")


@pytest.fixture
def penstock(penstock_environment: Mapping[str, str]) -> Penstock:
    """Runs ``penstock batch``; an unexpected exception fails the test."""
    runner = CliRunner(env=penstock_environment)

    def run(*args: str, input: str | None = None) -> Result:
        return runner.invoke(cli, ["batch", *args], input=input, catch_exceptions=False)

    return run


@pytest.fixture
def questions(tmp_path: Path, body: Body) -> Path:
    """A file of five requests, of which one will fail and one will expire."""
    prompts = ["a", "b [[sim errored=overloaded_error]]", "c [[sim expired]]", "d", "e"]
    path = tmp_path / "questions.jsonl"
    lines = [{"custom_id": f"q-{i}", "params": body(p)} for i, p in enumerate(prompts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def ended(penstock: Penstock, questions: Path) -> str:
    """The id of a job that has ended."""
    id = penstock("submit", str(questions)).stdout.strip()
    assert penstock("wait", id).exit_code == UNSUCCESSFUL
    return id


def test_submit_prints_the_id_and_nothing_else(
    penstock: Penstock, questions: Path, penstock_client: Client
) -> None:
    submitted = penstock("submit", str(questions))
    assert submitted.exit_code == 0
    id = submitted.stdout.removesuffix("\n")
    assert penstock_client.messages.batches.retrieve(id).request_counts.total == 5
    assert (
        submitted.stderr == f"submitted 5 requests; to watch the job: penstock batch watch {id}\n"
    )


def test_submit_reads_stdin_and_ignores_empty_lines(penstock: Penstock, questions: Path) -> None:
    submitted = penstock("submit", "-", input=questions.read_text() + "\n\n")
    assert submitted.exit_code == 0
    assert submitted.stderr.startswith("submitted 5 requests;")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('{"custom_id": "q-9", \n', "penstock: line 6: not valid JSON: incomplete; "),
        ("\xff\n", "penstock: line 6: not valid JSON: not UTF-8\n"),
        ("{'a': 1}\n", "penstock: line 6: not valid JSON: expecting property name"),
        ("[1]\n", "penstock: line 6: must be an object, not a list\n"),
        ('\n{"custom_id": "q-9"}\n', "penstock: line 7: params: is required\n"),
        ('{"custom_id": "q 9"}\n', "penstock: line 6: custom_id: 'q 9' must be 1 to 64 "),
        ('{"custom_id": "q-9", "params": {}}\n', "penstock: line 6: params."),
    ],
)
def test_an_invalid_line_is_reported_and_no_job_is_enqueued(
    extra: str, message: str, penstock: Penstock, questions: Path, penstock_client: Client
) -> None:
    before = [job.id for job in penstock_client.messages.batches.list()]
    questions.write_bytes(questions.read_bytes() + extra.encode("latin-1"))
    submitted = penstock("submit", str(questions))
    assert submitted.exit_code == 1
    assert submitted.stdout == ""
    assert submitted.stderr.startswith(message)
    assert submitted.stderr.count("\n") == 1
    assert [job.id for job in penstock_client.messages.batches.list()] == before


def test_a_duplicate_custom_id_is_reported_with_both_lines(
    penstock: Penstock, questions: Path
) -> None:
    lines = questions.read_text().splitlines(keepends=True)
    submitted = penstock("submit", "-", input="".join([*lines, lines[1]]))
    assert submitted.exit_code == 1
    assert submitted.stderr == ("penstock: line 6: custom_id: 'q-1' was already used in line 2\n")


def test_an_empty_file_is_refused_in_one_line(penstock: Penstock) -> None:
    submitted = penstock("submit", "-", input="")
    assert submitted.exit_code == 1
    assert submitted.stderr == "penstock: <stdin> is empty\n"


def test_watch_prints_a_line_for_each_change_without_a_terminal(
    penstock: Penstock, questions: Path
) -> None:
    id = penstock("submit", str(questions)).stdout.strip()
    watched = penstock("watch", id)
    assert watched.exit_code == UNSUCCESSFUL
    lines = watched.stdout.splitlines()
    assert len(lines) == len(set(lines))
    assert lines[0] == "5 requests in 1 batch"
    assert any(line.startswith("shard 0  collected    msgbatch_") for line in lines)
    assert "errors  1 overloaded_error" in lines
    assert lines[-1] == "done  3 succeeded, 1 errored, 0 canceled, 1 expired"
    assert watched.stderr.startswith("3 succeeded, 1 errored, 0 canceled, 1 expired; cost 0.0")
    assert " USD (50% less than 0." in watched.stderr
    assert watched.stderr.endswith(
        "penstock: 2 of 5 requests did not succeed (1 overloaded_error); "
        f"to send them again: penstock batch retry-failed {id}\n"
    )


def test_wait_prints_only_how_the_job_ended(penstock: Penstock, body: Body) -> None:
    line = json.dumps({"custom_id": "q", "params": body("a")})
    id = penstock("submit", "-", input=line).stdout.strip()
    waited = penstock("wait", id)
    assert (waited.exit_code, waited.stdout) == (0, "")
    assert waited.stderr.startswith("1 succeeded, 0 errored, 0 canceled, 0 expired; cost 0.0")


def test_status_shows_the_errors_by_type(penstock: Penstock, ended: str) -> None:
    assert "\nerrors     1 overloaded_error\n" in penstock("status", ended).stdout
    assert json.loads(penstock("status", ended, "--json").stdout)["errors"] == {
        "overloaded_error": 1
    }


def test_results_of_some_types_only(penstock: Penstock, ended: str, tmp_path: Path) -> None:
    def ids(*args: str) -> list[str]:
        lines = penstock("results", ended, "--order", "submitted", *args).stdout.splitlines()
        return [json.loads(line)["custom_id"] for line in lines]

    assert ids("--only", "errored") == ["q-1"]
    assert ids("--only", "expired", "--only", "errored") == ["q-1", "q-2"]
    assert ids("--only", "succeeded") == ["q-0", "q-3", "q-4"]
    assert ids("--only", "canceled") == []
    path = tmp_path / "errored.jsonl"
    assert penstock("results", ended, "--only", "errored", "-o", str(path)).exit_code == 0
    assert len(path.read_text().splitlines()) == 1
    refused = penstock("results", ended, "--only", "errored", "-o", str(path), "--resume")
    assert refused.exit_code == 2


def test_retry_failed_prints_the_id_of_a_job_with_the_failed_requests(
    penstock: Penstock, ended: str
) -> None:
    retried = penstock("retry-failed", ended)
    assert retried.exit_code == 0
    id = retried.stdout.strip()
    assert retried.stderr.startswith("submitted 2 requests again; ")
    assert penstock("wait", id).exit_code == UNSUCCESSFUL
    results = penstock("results", id, "--order", "submitted").stdout.splitlines()
    assert [json.loads(line)["custom_id"] for line in results] == ["q-1", "q-2"]
    again = penstock("retry-failed", ended)
    assert (again.exit_code, again.stdout) == (1, "")
    assert f"were sent again as job {id}" in again.stderr


def test_watching_a_canceled_job_exits_with_code_1(
    penstock: Penstock, penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    penstock_control.configure(batch_seconds=6)  # a canceled batch takes a quarter of that
    requests = [{"custom_id": f"q-{i}", "params": body("[[sim canceled]]")} for i in range(3)]
    job = penstock_client.messages.batches.create(requests=requests)
    canceled = penstock("cancel", job.id)
    assert canceled.exit_code == 0
    assert (
        canceled.stderr == f"canceling {job.id}; to watch the job: penstock batch watch {job.id}\n"
    )
    watched = penstock("watch", job.id)
    assert penstock_client.messages.batches.retrieve(job.id).state is State.CANCELED
    assert watched.exit_code == 1
    assert watched.stderr.endswith(f"penstock: {job.id} was canceled\n")


def test_results_are_written_in_the_format_of_the_api(
    penstock: Penstock, ended: str, penstock_client: Client
) -> None:
    lines = penstock("results", ended).stdout_bytes.splitlines()
    assert lines == list(penstock_client.messages.batches.result_lines(ended))
    assert {json.loads(line)["custom_id"] for line in lines} == {f"q-{i}" for i in range(5)}


def test_results_are_written_to_a_file_that_appears_when_it_is_complete(
    penstock: Penstock, ended: str, tmp_path: Path
) -> None:
    path = tmp_path / "answers" / "all.jsonl"
    refused = penstock("results", ended, "-o", str(path))
    assert refused.exit_code == 1
    assert refused.stderr == f"penstock: {path}: No such file or directory\n"
    path.parent.mkdir()
    written = penstock("results", ended, "-o", str(path))
    assert written.stdout == ""
    assert written.stderr == f"wrote 5 results to {path}\n"
    assert len(path.read_text().splitlines()) == 5
    assert list(path.parent.iterdir()) == [path]


def test_the_results_of_a_running_job_are_refused(
    penstock: Penstock, questions: Path, tmp_path: Path
) -> None:
    id = penstock("submit", str(questions)).stdout.strip()
    path = tmp_path / "answers.jsonl"
    refused = penstock("results", id, "-o", str(path))
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"penstock: {id} has not ended; ")
    assert not path.exists()
    penstock("watch", id)


def test_a_reader_that_closes_the_pipe_is_no_error(
    ended: str, penstock_environment: Mapping[str, str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "batch", "results", ended],
        env={**os.environ, **penstock_environment},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert ran.stderr == b""
    assert ran.returncode == 141


def test_status_shows_counts_tokens_and_cost(penstock: Penstock, ended: str) -> None:
    head, _, table = penstock("status", ended).stdout.partition("\n\n")
    shown = dict(line.split(maxsplit=1) for line in head.splitlines())
    assert shown["id"] == ended
    assert shown["state"] == "done"
    assert shown["requests"] == "5: 3 succeeded, 1 errored, 0 canceled, 1 expired"
    assert table.splitlines()[1].split()[:3] == ["0", "collected", "5"]
    assert "output_tokens" in shown["tokens"]
    assert "USD" in shown["cost"]


def test_status_as_json_is_one_object(penstock: Penstock, ended: str) -> None:
    job = json.loads(penstock("status", ended, "--json").stdout)
    assert job["id"] == ended
    assert job["processing_status"] == "ended"
    assert job["request_counts"]["succeeded"] == 3


def test_list_shows_the_newest_job_first(penstock: Penstock, ended: str) -> None:
    lines = penstock("list", "--limit", "2").stdout.splitlines()
    assert lines[0].startswith(f"{ended}  done      ")
    assert len(lines) <= 2


def test_canceling_an_ended_job_reports_its_state(penstock: Penstock, ended: str) -> None:
    canceled = penstock("cancel", ended)
    assert canceled.exit_code == 0
    assert canceled.stderr == f"{ended} has already ended: done\n"


def test_penstock_cancel_accepts_the_id_of_a_job(
    penstock_environment: Mapping[str, str],
    penstock_client: Client,
    penstock_control: Control,
    body: Body,
) -> None:
    penstock_control.configure(batch_seconds=6)
    batches = penstock_client.messages.batches
    job = batches.create(requests=[{"custom_id": "q", "params": body("[[sim canceled]]")}])
    canceled = CliRunner(env=penstock_environment).invoke(cli, ["cancel", job.id])
    assert canceled.exit_code == 0
    assert (
        canceled.stderr == f"canceling {job.id}; to watch the job: penstock batch watch {job.id}\n"
    )
    wait_until(lambda: batches.retrieve(job.id).state.ended)
    assert batches.retrieve(job.id).state is State.CANCELED


def test_a_stream_id_and_a_job_id_are_not_confused(
    penstock: Penstock,
    ended: str,
    penstock_environment: Mapping[str, str],
    penstock_client: Client,
    body: Body,
) -> None:
    request = penstock_client.messages.enqueue(**body())
    request.stream().until_done()
    refused = penstock("status", request.id)
    assert refused.exit_code == 1
    assert refused.stderr.endswith(f"not a batch job; try: penstock follow {request.id}\n")
    refused = CliRunner(env=penstock_environment).invoke(cli, ["follow", ended])
    assert refused.exit_code == 1
    assert refused.stderr.endswith(f"is a batch job; try: penstock batch watch {ended}\n")
