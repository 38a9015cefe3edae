"""The commands that run in the foreground: worker, flower, simulate, settings, up."""

import base64
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from penstock import Client
from penstock.cli.command_error import CommandError
from penstock.cli.commands.up import check_other_workers
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import free_port
from penstock.simulator.control import Control
from penstock.testing import wait_until

BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}


def penstock(*args: str) -> list[str]:
    return [sys.executable, "-m", "penstock.cli", *args]


def output(*args: str, env: Mapping[str, str] | None = None) -> str:
    """Return what a command prints until it ends by itself."""
    ran = subprocess.run(
        penstock(*args),
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ran.stdout


@contextmanager
def running(*args: str, env: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Run a command in the background, with both of its outputs in one pipe."""
    process = subprocess.Popen(
        penstock(*args),
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: "subprocess.Popen[str]", marker: str) -> str:
    """Return what a process prints, up to and including the line with ``marker``."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if marker in line:
            return seen
    raise AssertionError(f"the process ended without {marker!r}:\n{seen}")


def gone(pid: int) -> bool:
    """Return whether a process and its whole group have ended."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_worker_command_becomes_celery_and_exits_as_celery_does(
    penstock_environment: Mapping[str, str],
) -> None:
    with running("worker", "batches", "--", "--concurrency=1", env=penstock_environment) as worker:
        seen = read_until(worker, " ready.")
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=30)
    assert "batches@" in seen
    assert worker.returncode == 0


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["worker", "streams", "--", "--help"], "--autoscale"),
        (["flower", "--", "--help"], "TORNADO_ARGV"),
        (["simulate", "--", "--help"], "--batch-seconds"),
    ],
)
def test_options_after_the_dashes_are_passed_to_the_program(args: list[str], text: str) -> None:
    assert text in output(*args)


def test_flower_prints_a_password_without_which_its_buttons_do_nothing(
    penstock_environment: Mapping[str, str],
) -> None:
    port = free_port()
    revoke = f"http://127.0.0.1:{port}/api/task/revoke/018bcfe5-6880-7000-8000-000000000000"
    with running("flower", "--", f"--port={port}", env=penstock_environment) as flower:
        line = read_until(flower, "password")
        [(user, password)] = re.findall(r"Flower: user (\w+), password (\w+)", line)
        read_until(flower, "Visit me at")
        assert status_of(revoke) == 401
        assert status_of(revoke, f"{user}:{password}") == 200


def test_flower_on_a_port_that_is_in_use_prints_one_line(
    penstock_environment: Mapping[str, str],
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with running("flower", "--", f"--port={port}", env=penstock_environment) as flower:
            said, _ = flower.communicate(timeout=60)
    assert flower.returncode == 1
    [line] = said.splitlines()
    assert f"127.0.0.1:{port} is in use" in line
    assert "penstock flower -- --port=" in line


def status_of(url: str, login: str = "") -> int:
    """Return the status of a POST."""
    request = urllib.request.Request(url, method="POST", data=b"")  # noqa: S310 - loopback
    if login:
        encoded = base64.b64encode(login.encode()).decode()
        request.add_header("Authorization", f"Basic {encoded}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_simulator_accepts_requests_once_it_has_printed_its_address() -> None:
    with running("simulate", env={}) as simulator:
        url = read_until(simulator, "http://").splitlines()[-1]
        control = Control(url)
        control.reset()
        simulator.send_signal(signal.SIGTERM)
        simulator.communicate(timeout=20)


def test_settings_are_listed_with_their_values() -> None:
    listed = output("settings", env={"PENSTOCK_LEASE_MS": "3000"})
    assert "PENSTOCK_LEASE_MS = 3000   (default: 5000)" in listed
    assert "ANTHROPIC_API_KEY = " in listed


def test_up_runs_a_complete_deployment_until_it_is_interrupted(tmp_path: Path) -> None:
    with running("up", "--simulate", env={"TMPDIR": str(tmp_path)}) as up:
        seen = read_until(up, "export ")
        pids = [int(pid) for pid in re.findall(r"pid (\d+)", seen)]
        assert len(pids) == 5
        url = seen.rpartition("export PENSTOCK_REDIS_URL=")[2].split()[0]
        password = str(urlsplit(url).password)
        assert len(password) > 30
        # Every user can read the command lines of all processes.
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
        assert not any(password.encode() in line for line in lines)
        written = [
            path for path in tmp_path.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077
        ]
        assert written == []
        assert output("stream", '[[sim text="Up."]]', env={}) == "[simulated] Up.\n"
        assert "simulated-streams@" in output("doctor", env={"PENSTOCK_REDIS_URL": url})
        up.send_signal(signal.SIGINT)
        rest, _ = up.communicate(timeout=30)
    assert rest == "penstock: interrupted\n"
    assert up.returncode == 130
    assert all(gone(pid) for pid in pids)
    assert list(tmp_path.iterdir()) == []


def test_up_reports_a_process_that_has_died_and_stops_the_others(tmp_path: Path) -> None:
    with running("up", "--simulate", env={"TMPDIR": str(tmp_path)}) as up:
        seen = read_until(up, "export ")
        pids = {name: int(pid) for name, pid in re.findall(r"^(\w+) +pid (\d+)", seen, re.M)}
        os.kill(pids["batches"], signal.SIGKILL)
        rest, _ = up.communicate(timeout=30)
    assert rest.startswith("penstock: batches exited unexpectedly; stopped everything else:\n")
    assert " ready." in rest  # the end of its log
    assert up.returncode == 1
    assert all(gone(pid) for pid in pids.values())
    assert list(tmp_path.iterdir()) == []


def test_up_uses_the_redis_in_the_environment(
    tmp_path: Path, penstock_environment: Mapping[str, str], penstock_client: Client
) -> None:
    with running("up", env={**penstock_environment, "TMPDIR": str(tmp_path)}) as up:
        seen = read_until(up, "Ready.")
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=30)
    assert "redis " not in seen
    assert up.returncode == 143
    assert penstock_client.messages.batches.list() is not None


@pytest.mark.parametrize("variable", ["PENSTOCK_REDIS_URL", "penstock_redis_url"])
def test_up_does_not_simulate_on_a_redis_that_the_command_line_does_not_name(
    variable: str,
) -> None:
    with running("up", "--simulate", env={variable: "redis://:secret@127.0.0.1:1/0"}) as up:
        message, _ = up.communicate(timeout=30)
    assert message.startswith("penstock: PENSTOCK_REDIS_URL is set (redis://127.0.0.1:1/0)")
    assert "--redis-url URL" in message
    assert "secret" not in message
    assert message.count("\n") == 1
    assert up.returncode == 1


def test_up_simulates_on_a_redis_that_the_command_line_names() -> None:
    other = {"PENSTOCK_REDIS_URL": "redis://127.0.0.1:1/0", "CELERY_BROKER_URL": "redis://x:1/0"}
    with (
        EmbeddedRedis() as server,
        Client(server.url) as client,
        running("up", "--simulate", "--redis-url", server.url, env=other) as up,
    ):
        assert "redis " not in read_until(up, "Ready.")
        request = client.messages.enqueue(**BODY)
        stream = request.stream(timeout=60)
        assert stream.get_final_text().startswith("[simulated] ")
        assert stream.end is not None
        assert stream.end.simulated is True
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=30)


@pytest.mark.usefixtures("penstock_workers")
def test_up_does_not_simulate_where_other_workers_answer(penstock_redis: EmbeddedRedis) -> None:
    with running("up", "--simulate", "--redis-url", penstock_redis.url, env={}) as up:
        message, _ = up.communicate(timeout=60)
    assert message.startswith("penstock: workers on this Redis already answer with the API (batch")
    assert "streams@" in message
    assert up.returncode == 1


def test_real_and_simulated_workers_do_not_share_a_queue() -> None:
    check_other_workers([], simulate=True)
    check_other_workers(["streams@a", "streams@b"], simulate=False)
    check_other_workers(["simulated-streams@a"], simulate=True)
    with pytest.raises(CommandError, match=r"invented text \(simulated-streams@a\), and these"):
        check_other_workers(["simulated-streams@a", "streams@b"], simulate=False)


def test_up_with_an_unreachable_redis_fails_in_one_line() -> None:
    args = ("up", "--simulate", "--redis-url", "redis://127.0.0.1:1/0")
    with running(*args, env={}) as up:
        message, _ = up.communicate(timeout=30)
    assert message.startswith("penstock: Redis at redis://127.0.0.1:1/0 cannot be reached")
    assert message.count("\n") == 1
    assert up.returncode == 1


def test_up_killed_by_sigkill_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    with running("up", "--simulate", env={"TMPDIR": str(tmp_path)}) as up:
        seen = read_until(up, "export ")
        pids = [int(pid) for pid in re.findall(r"pid (\d+)", seen)]
        up.kill()
    wait_until(lambda: all(gone(pid) for pid in pids))
    wait_until(lambda: not list(tmp_path.iterdir()))
