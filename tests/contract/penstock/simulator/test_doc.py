"""docs/simulator.md: it names everything there is, and its examples run unchanged."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from penstock.simulator.control import Control
from penstock.simulator.faults.directives import Shape
from penstock.simulator.faults.fault import Fault
from penstock.simulator.faults.malformed_events import MALFORMED_EVENTS
from penstock.simulator.faults.malformed_headers import MALFORMED_HEADERS
from penstock.simulator.faults.malformed_lines import MALFORMED_LINES
from penstock.simulator.faults.malformed_responses import MALFORMED_RESPONSES
from penstock.simulator.faults.odd_batches import ODD_BATCHES
from penstock.simulator.options import Options
from penstock.simulator.stats import Stats

ROOT = Path(__file__).resolve().parents[4]
TEXT = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")

#: Names in code: `deltas=N` is `deltas`, `fault(**keys)` is `fault`.
NAMES = set(re.findall(r"(?<=`)(?:--)?\w[\w-]*", TEXT))

EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def run(*command: str, control: Control) -> None:
    """Run a command against a simulator; the test fails with its output."""
    environment = {
        **os.environ,
        "ANTHROPIC_BASE_URL": control.base_url,
        "ANTHROPIC_API_KEY": "any",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([*command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_option_is_in_the_documentation() -> None:
    """With the name of its flag."""
    options = {f"--{each.name.replace('_', '-')}" for each in fields(Options)}
    assert options - NAMES == set()


def test_every_malformed_response_is_in_the_documentation() -> None:
    """By the name that a fault or a directive gives it."""
    tables = (MALFORMED_EVENTS, MALFORMED_RESPONSES, MALFORMED_HEADERS, MALFORMED_LINES)
    section = TEXT.partition("\n## Malformed responses")[2].partition("\n## ")[0]
    shown = set(re.findall(r"`(\w+)`", section))
    assert {*ODD_BATCHES}.union(*tables) - shown == set()


@pytest.mark.parametrize("kind", [Shape, Fault, Stats])
def test_every_directive_fault_and_counter_is_in_the_documentation(kind: type) -> None:
    """By its name in code."""
    assert {each.name for each in fields(kind)} - NAMES == set()


def test_every_method_of_control_is_in_the_documentation() -> None:
    """With its endpoint."""
    methods = {name for name in vars(Control) if not name.startswith("_")}
    assert methods - NAMES == set()


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_of_the_documentation_run(
    example: str, control: Control, tmp_path: Path
) -> None:
    """As programs, or as tests where they define one."""
    path = tmp_path / "test_example.py"
    path.write_text(example, encoding="utf-8")
    if "def test_" in example:
        run(
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(path),
            control=control,
        )
    else:
        run(sys.executable, str(path), control=control)
