"""Counts batches paid for twice or never collected after lost answers; simulated."""

import argparse
from dataclasses import replace

from benchmarks.figures import report
from benchmarks.submits import Play, World


def main() -> None:
    """Simulate the same create calls with Penstock's decisions and with blind retries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submits", type=int, default=10_000)
    parser.add_argument("--ambiguous", type=float, default=0.08)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    world = World(submits=asked.submits, ambiguous=asked.ambiguous, seed=asked.seed)
    figures = {
        "reconciled": Play(world).run(),
        "resubmitted_on_unknown": Play(replace(world, resend=True)).run(),
    }
    report("reconciliation", figures)


if __name__ == "__main__":
    main()
