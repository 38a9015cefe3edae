"""The output on a terminal: progress bars, the live table and colors."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

Body = Callable[..., dict[str, Any]]
Terminal = Callable[..., str]

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")


@pytest.fixture
def terminal(penstock_environment: Mapping[str, str]) -> Terminal:
    """Runs a command in a terminal of its own and returns everything it printed there."""

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
    except OSError:  # Linux reports the closed end of a terminal as an error
        return b""


def test_a_terminal_shows_progress_bars_and_the_live_table(
    terminal: Terminal, tmp_path: Path, body: Body
) -> None:
    path = tmp_path / "questions.jsonl"
    lines = (json.dumps({"custom_id": f"q-{i}", "params": body()}) for i in range(20))
    path.write_text("\n".join(lines))
    submitted = terminal("batch", "submit", str(path))
    assert "Reading" in submitted
    assert "20 requests" in submitted
    [id] = re.findall(r"penstock batch watch ([0-9a-f-]+)", submitted)
    watched = terminal("batch", "watch", id)
    assert "shard 0" in watched
    assert "20/20" in watched
    assert "✓" in watched


def test_a_terminal_shows_colors_unless_no_color_is_set(terminal: Terminal) -> None:
    assert "\x1b[32mok" in terminal("doctor")
    assert "\x1b[" not in terminal("doctor", NO_COLOR="1")


def test_the_summary_of_a_stream_is_dimmed(terminal: Terminal) -> None:
    shown = terminal("stream", '[[sim text="An answer."]]')
    assert shown.startswith("An answer.")
    assert "\x1b[2mid " in shown
