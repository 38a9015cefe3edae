"""Runs all benchmarks, or some: ``python -m benchmarks [--quick] [names…]``.

``--quick`` takes a few minutes and checks that all of them work. The figures in the docs are from
a run without it, on a machine that does nothing else.
"""

import argparse
import subprocess
import sys
from typing import Final

from benchmarks.figures import note

#: Module → its options for a full and for a quick run.
RUNS: Final[dict[str, tuple[str, str]]] = {
    "capacity": ("--sweep", "--streams 100 --seconds 10"),
    "overhead": ("", "--rounds 40"),
    "late_join": ("", "--deltas 5000 --readers 100"),
    "takeover": ("", "--kills 2 --hand-overs 2 --cancels 10"),
    "rate_storm": ("", "--requests 100"),
    "submit": ("", "--requests 5000"),
    "collect": ("", "--lines 10000 --rounds 1"),
    "hostile_answers": ("", "--share 0.1"),
    "detection": ("", "--rounds 200"),
    "reconciliation": ("", "--submits 1000"),
}


def main() -> int:
    """Run the benchmarks, each of which prints its line; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"all, or {', '.join(RUNS)}")
    parser.add_argument("--quick", action="store_true", help="small settings")
    asked = parser.parse_args()
    if unknown := set(asked.names) - RUNS.keys():
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}")
    failed = 0
    for name in asked.names or RUNS:
        options = RUNS[name][asked.quick].split()
        note(f"{name} {' '.join(options)}")
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        failed += subprocess.run(command, check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
