"""Starting a simulator of one's own, and stopping it: for tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.simulator.control import Control


@contextmanager
def simulator(**options: float) -> Iterator[Control]:
    """Run a simulator on a free port of the loopback; yields its control.

    Its `base_url` is what ANTHROPIC_BASE_URL has to be. Options are those of
    `penstock.simulator.options.Options`.
    """
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.simulator", *flags], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise RuntimeError(f"the simulator ended with status {process.wait()}")
            yield Control(url)
        finally:
            process.terminate()
            process.wait()
