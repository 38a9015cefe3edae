"""``penstock stream``, ``follow`` and ``cancel`` against real workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock import Client, State, events
from penstock.cli import cli
from penstock.testing import wait_until

Penstock = Callable[..., Result]
Body = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")

SLOW = "[[sim deltas=2000 rate=20]]"


@pytest.fixture
def penstock(penstock_environment: Mapping[str, str]) -> Penstock:
    """Runs a command; an unexpected exception fails the test."""
    runner = CliRunner(env=penstock_environment)

    def run(*args: str, input: str | None = None) -> Result:
        return runner.invoke(cli, args, input=input, catch_exceptions=False)

    return run


def cancel_request(client: Client, id: str) -> None:
    """Cancel a request that a test has left running."""
    client.messages.request(id).cancel("test")
    wait_until(lambda: client.messages.request(id).state.ended)


def test_the_answer_is_on_stdout_and_its_summary_on_stderr(penstock: Penstock) -> None:
    answered = penstock("stream", '[[sim text="It scatters."]]', "--max-tokens", "50")
    assert answered.exit_code == 0
    assert answered.stdout == "It scatters.\n"
    assert answered.stderr.startswith("id ")
    assert " tokens in, " in answered.stderr
    assert "first delta " in answered.stderr
    assert answered.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [[], ["-"]])
def test_the_prompt_is_read_from_stdin(args: list[str], penstock: Penstock) -> None:
    answered = penstock("stream", *args, input='[[sim text="Größe 東京"]]\n')
    assert answered.stdout == "Größe 東京\n"


def test_json_prints_every_event_as_it_was_published(
    penstock: Penstock, penstock_client: Client
) -> None:
    answered = penstock("stream", '[[sim text="One two."]]', "--json")
    lines = [events.decode(line) for line in answered.stdout.splitlines()]
    assert [line.n for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0].type == events.QUEUED
    assert lines[-1].type == events.END
    id = lines[0].data["id"]
    assert [event.data for event in penstock_client.messages.request(id).events()] == [
        line.data for line in lines
    ]


def test_the_system_prompt_and_the_model_reach_the_api(
    penstock: Penstock, penstock_client: Client
) -> None:
    answered = penstock("stream", "hi", "--system", "Be brief.", "-m", "claude-sonnet-4-5")
    id = answered.stderr.split()[1]
    record = penstock_client.messages.request(id).record()
    assert record.fields["model"] == "claude-sonnet-4-5"


def test_a_failed_answer_keeps_its_text_and_reports_the_error(penstock: Penstock) -> None:
    answered = penstock("stream", '[[sim text="Half of it." error_after=last error_type=refused]]')
    assert answered.exit_code == 1
    assert answered.stdout.strip() in "Half of it."
    assert answered.stderr.startswith("penstock: refused: ")
    assert "(id " in answered.stderr
    assert answered.stderr.count("\n") == 1


@pytest.mark.parametrize("disconnect_after", [1, 2, 3])
def test_a_pipe_never_gets_text_that_an_interruption_withdraws(
    penstock: Penstock, disconnect_after: int
) -> None:
    """The model takes no prefill, so an answer of a few characters is generated again."""
    text = "A short beginning, and then the rest."
    prompt = f'[[sim text="{text}" chars=2 disconnect_after={disconnect_after}]]'
    answered = penstock("stream", prompt, "-m", "claude-opus-5-5")
    assert answered.stdout == text + "\n"


def test_an_error_of_the_api_is_reported_in_one_line(penstock: Penstock) -> None:
    answered = penstock("stream", "hi", "--max-tokens", "64001")
    assert answered.exit_code == 1
    assert answered.stderr.startswith("penstock: max_tokens: 64001 is more than ")


def test_follow_prints_the_same_answer_every_time(
    penstock: Penstock, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body('[[sim text="The same answer."]]'))
    assert penstock("follow", request.id).stdout == "The same answer.\n"
    assert penstock("follow", request.id).stdout == "The same answer.\n"


def test_follow_resumes_after_a_cursor(
    penstock: Penstock, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body("[[sim deltas=10]]"))
    seen = list(request.events())
    rest = penstock("follow", request.id, "--after", str(seen[7].cursor), "--json")
    assert [events.decode(line).n for line in rest.stdout.splitlines()] == [e.n for e in seen[8:]]


def test_an_invalid_cursor_is_a_usage_error(
    penstock: Penstock, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body())
    answered = penstock("follow", request.id, "--after", "yesterday")
    assert answered.exit_code == 2
    assert "not a cursor: 'yesterday'" in answered.stderr
    request.stream().until_done()


def test_an_unknown_id_is_reported_in_one_line(penstock: Penstock) -> None:
    for command in ("follow", "cancel"):
        answered = penstock(command, "00000000-0000-7000-8000-000000000000")
        assert answered.exit_code == 1
        assert "it never existed, or it has expired" in answered.stderr


def test_cancel_stops_a_running_answer_and_keeps_its_text(
    penstock: Penstock, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body(SLOW))
    wait_until(request.text)
    canceled = penstock("cancel", request.id)
    assert canceled.exit_code == 0
    assert canceled.stdout == ""
    assert (
        canceled.stderr
        == f"canceling {request.id}; to follow the request: penstock follow {request.id}\n"
    )
    followed = penstock("follow", request.id)
    assert followed.exit_code == 1
    assert followed.stderr == f"penstock: canceled by command line (id {request.id})\n"
    assert followed.stdout == request.text() + "\n"
    assert request.state is State.CANCELED


def test_canceling_an_ended_request_reports_its_state(
    penstock: Penstock, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body())
    request.stream().until_done()
    canceled = penstock("cancel", request.id)
    assert canceled.exit_code == 0
    assert canceled.stderr == f"{request.id} has already ended: done\n"


def test_a_stream_without_a_worker_prints_a_note(penstock_environment: object) -> None:
    """The first event is there immediately; all others would come from a worker."""
    from penstock.local.embedded_redis import EmbeddedRedis

    with EmbeddedRedis() as empty:
        env = {**os.environ, "PENSTOCK_REDIS_URL": empty.url}
        with started("stream", "Hello?", env=env) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
    assert "is waiting for a worker; to check the workers: penstock doctor" in line


def test_interrupting_the_command_leaves_the_request_running(
    penstock_environment: Mapping[str, str], penstock_client: Client
) -> None:
    with started("stream", SLOW, env={**os.environ, **penstock_environment}) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, line = process.communicate(timeout=20)
    assert first
    assert rest.endswith("\n")
    assert process.returncode == 130
    assert line.startswith(
        "penstock: interrupted; the request continues. To follow it: penstock follow "
    )
    id = line.rpartition(" ")[2].strip()
    assert penstock_client.messages.request(id).state is State.RUNNING
    cancel_request(penstock_client, id)


def started(*args: str, env: Mapping[str, str]) -> "subprocess.Popen[str]":
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", *args],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
