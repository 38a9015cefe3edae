"""What people see who sit in front of a terminal: bars where they wait."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

Body = Callable[..., dict[str, Any]]
Typed = Callable[..., str]

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")


@pytest.fixture
def typed(penstock_environment: Mapping[str, str]) -> Typed:
    """Runs a command in a terminal of its own; returns everything that the terminal was sent."""

    def run(*args: str, **env: str) -> str:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", *args],
            env={**os.environ, **penstock_environment, "TERM": "xterm", "COLUMNS": "120", **env},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
        os.close(ours)
        assert process.wait() == 0
        return shown.decode()

    return run


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way of saying that nobody writes any more
        return b""


def test_a_person_sees_bars_while_requests_are_read_and_run(
    typed: Typed, tmp_path: Path, body: Body
) -> None:
    path = tmp_path / "questions.jsonl"
    lines = (json.dumps({"custom_id": f"q-{i}", "params": body()}) for i in range(20))
    path.write_text("\n".join(lines))
    submitted = typed("batch", "submit", str(path))
    assert "reading" in submitted
    assert "20 requests" in submitted
    id = submitted.rpartition("batch watch ")[2].partition(")")[0]
    watched = typed("batch", "watch", id)
    assert "shard 0" in watched
    assert "20/20" in watched
    assert "✓" in watched


def test_a_person_sees_colours_unless_they_do_not_want_them(typed: Typed) -> None:
    assert "\x1b[32mok" in typed("doctor")
    assert "\x1b[" not in typed("doctor", NO_COLOR="1")


def test_what_a_stream_took_is_dim_so_that_the_answer_stands_out(typed: Typed) -> None:
    shown = typed("stream", '[[sim text="An answer."]]')
    assert shown.startswith("An answer.")
    assert "\x1b[2mid " in shown
