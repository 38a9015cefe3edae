"""``penstock demo``, run the way a user runs it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from penstock.cli.demo_steps import ANSWER
from penstock.local.stack import SimulatorProcess
from penstock.queue.names import BATCH_STEPS, STREAM

#: The installed command, beside the interpreter that runs the tests.
PENSTOCK = Path(sys.executable).with_name("penstock")


@contextmanager
def demo(folder: Path, *args: str) -> Iterator["subprocess.Popen[str]"]:
    """Start the demo in an empty folder, with an empty folder for temporary files."""
    (folder / "tmp").mkdir()
    (folder / "work").mkdir()
    with subprocess.Popen(
        [PENSTOCK, "demo", *args],
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        cwd=folder / "work",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
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
    raise AssertionError(f"the process ended without {marker!r}:\n{seen}{process.communicate()[1]}")


def assert_everything_is_removed(folder: Path, printed: str) -> None:
    """Check that the announced processes have ended and that the folders are empty."""
    for pid in re.findall(r"pid (\d+)", printed):
        with pytest.raises(ProcessLookupError):
            os.killpg(int(pid), 0)
    assert list((folder / "tmp").iterdir()) == []
    assert list((folder / "work").iterdir()) == []


def test_the_demo_shows_a_stream_a_tool_call_a_batch_and_flower(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        shown, errors = process.communicate(timeout=110)
    assert errors == ""
    assert process.returncode == 0

    parts = dict(re.findall(r"^(\w+) +pid \d+ +(.+)$", shown, re.M))
    assert list(parts) == ["redis", "simulator", "streams", "batches", "flower"]
    assert parts["redis"].startswith("redis://127.0.0.1:")
    assert parts["simulator"].startswith("http://127.0.0.1:")
    assert parts["flower"].startswith("http://127.0.0.1:")

    _, stream, tools, batch, flower = re.split(r"^\d\. ", shown, flags=re.M)
    assert f"[simulated] {ANSWER}" in stream
    assert re.search(r"^id \S+ · \d+ tokens in, \d+ out · first delta .+ · total .+$", stream, re.M)
    assert re.search(r"^content_block_start +tool_use get_weather$", tools, re.M)
    assert len(re.findall(r"^input_json_delta +(.+)$", tools, re.M)) > 2
    assert_a_batch_is_shown(batch)
    succeeded = re.findall(r"^(penstock\.\S+) +success ", flower, re.M)
    assert succeeded[:2] == [STREAM, STREAM]
    assert set(succeeded[2:]) == set(BATCH_STEPS)
    # Duplicates are only counted, and every other task says what it did.
    assert re.findall(r"^penstock\.\S+ +(?:skipped.*|success *)$", flower, re.M) == []
    assert_everything_is_removed(tmp_path, shown)


def assert_a_batch_is_shown(batch: str) -> None:
    """Check the states of the shards, the counts, some results and the cost."""
    # A shard that progresses quickly is not shown in all of its states.
    shards = re.findall(r"^shard (\d)  collected    msgbatch_\w+", batch, re.M)
    assert set(shards) >= {"0", "1", "2", "3"}
    assert "; retry round 1\n" in batch  # transient failures were retried
    counts = re.search(
        r"^(\d+) succeeded, (\d+) errored, (\d+) canceled, (\d+) expired in ", batch, re.M
    )
    assert counts is not None
    succeeded, errored, canceled, expired = map(int, counts.groups())
    assert (succeeded, errored, canceled, expired) == (297, 3, 0, 0)
    assert re.search(r"^  turbine-\d{3} +succeeded  \S", batch, re.M)
    assert re.search(r"^cost 0\.\d+ USD \(50% less than 0\.\d+ for live calls\)$", batch, re.M)


def test_the_commands_printed_by_keep_work(tmp_path: Path) -> None:
    with demo(tmp_path, "--keep") as process:
        shown = read_until(process, "In a browser: ")
        run = partial(command, tmp_path / "work", shown)
        assert "1 worker: simulated-streams@" in run("doctor")
        assert "claude-haiku-4-5" in run("batch list")
        assert run("stream").strip()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert (rest, errors) == ("", "penstock: interrupted\n")
    assert process.returncode == 130
    assert_everything_is_removed(tmp_path, shown)


def command(folder: Path, shown: str, name: str) -> str:
    """Run the printed ``export`` and an example command; return what it prints."""
    export = re.search(r"^  (export .*)$", shown, re.M)
    example = re.search(rf"^  (\S*penstock {name}\b.*)$", shown, re.M)
    assert export is not None
    assert example is not None
    ran = subprocess.run(
        ["/bin/sh", "-c", f"{export[1]}; {example[1]}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ran.stdout


@pytest.mark.parametrize(
    ("marker", "number", "code"),
    [
        ("redis ", signal.SIGINT, 130),
        ("simulator ", signal.SIGTERM, 143),
        ("> ", signal.SIGINT, 130),
        ("3. Batch job", signal.SIGINT, 130),
    ],
)
def test_the_demo_can_be_interrupted_at_any_step(
    marker: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    with demo(tmp_path) as process:
        shown = read_until(process, marker)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors == ("penstock: interrupted\n" if code == 130 else "")
    assert_everything_is_removed(tmp_path, shown + rest)


def test_the_demo_reports_its_redis_and_why_an_installed_one_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    old = tmp_path / "bin" / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=7.0.15 sha=00000000:0\n")
    old.chmod(0o755)
    monkeypatch.delenv("PENSTOCK_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", f"{old.parent}{os.pathsep}{os.environ['PATH']}")
    with demo(tmp_path) as process:
        shown = read_until(process, "simulator ")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    private = r"^redis +pid \d+ +redis://\S+ \(private, (Redis|Valkey) \d+\.\d+\.\d+ from \S+\)$"
    assert re.search(private, shown, re.M)
    assert f"skipped {old}: Redis 7.0.15 is older than 7.2\n" in shown
    assert_everything_is_removed(tmp_path, shown)


def test_the_live_demo_without_an_api_key_fails_in_one_line(tmp_path: Path) -> None:
    with demo(tmp_path, "--live") as process:
        shown, error = process.communicate(timeout=60)
    assert shown == ""
    assert error == "penstock: ANTHROPIC_API_KEY is not set; to run without a key: penstock demo\n"
    assert process.returncode == 1


def test_the_live_demo_uses_the_api_in_the_environment(
    tmp_path: Path, penstock_simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-a-real-key")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", penstock_simulator.url)
    with demo(tmp_path, "--live") as process:
        shown, errors = process.communicate(timeout=110)
    assert errors == ""
    assert process.returncode == 0
    assert shown.startswith("This uses the real API and costs less than one US cent.")
    assert "\nsimulator " not in shown  # it was not started
    assert "3 succeeded, 0 errored, 0 canceled, 0 expired in " in shown
    assert "not-a-real-key" not in shown
    assert_everything_is_removed(tmp_path, shown)
