"""A simulator process for the length of a ``with`` block, for tests."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.simulator.control import Control


@contextmanager
def simulator(**options: float) -> Iterator[Control]:
    """Run a simulator on a free loopback port; yields its `Control`.

    ``base_url`` of the control is the value for ANTHROPIC_BASE_URL. The options are those of
    `penstock.simulator.options.Options`::

        with simulator(batch_seconds=0.2) as control:
            client = anthropic.Anthropic(base_url=control.base_url, api_key="any")
    """
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.simulator", *flags], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise RuntimeError(f"the simulator exited with status {process.wait()}")
            yield Control(url)
        finally:
            process.terminate()
            process.wait()
