"""Computes how late the end of a batch is noticed, and with how many polls.

``python -m benchmarks.detection``: for batches of about 10 s, 10 min and 20 h, against a poll every
60 s. The clock is simulated: the poll interval is a function of the batch's age.
"""

import argparse
import random
from collections.abc import Callable
from typing import Any, Final

from benchmarks.figures import report, spread
from config.settings import WorkerSettings
from tasks.batches.poll import next_poll_s

#: Seconds that a batch takes, plus or minus a quarter.
TOOK_S: Final = {"10 s": 10.0, "10 min": 600.0, "20 h": 72_000.0}


def noticed(took_s: float, wait_s: Callable[[float], float]) -> tuple[float, int]:
    """Seconds from the end of a batch until a poll finds it, and the number of polls.

    The first poll is directly after the create call.
    """
    age_s, looks = 0.0, 1
    while age_s < took_s:
        age_s += wait_s(age_s)
        looks += 1
    return age_s - took_s, looks


def figures(took_s: float, wait_s: Callable[[float], float], rounds: int) -> dict[str, Any]:
    """Delays and polls over many batches of about this duration."""
    rng = random.Random(7)
    runs = [noticed(took_s * rng.uniform(0.75, 1.25), wait_s) for _ in range(rounds)]
    delays, looks = [delay for delay, _ in runs], [count for _, count in runs]
    return {
        "delay_s": spread(delays),
        "delay_share_p99": round(float(spread(delays)["p99"]) / took_s, 4),
        "looks_mean": round(sum(looks) / rounds, 1),
    }


def main() -> None:
    """Compute and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2_000)
    rounds = parser.parse_args().rounds
    settings, rng = WorkerSettings.load(), random.Random(11)

    def ours(age_s: float) -> float:
        return next_poll_s(
            age_s,
            share=settings.poll_interval_ratio,
            shortest_s=settings.poll_interval_min_s,
            longest_s=settings.poll_interval_max_s,
            jitter=rng.random(),
        )

    report(
        "detection",
        {
            name: {
                "penstock": figures(took_s, ours, rounds),
                "every_60_s": figures(took_s, lambda _: 60.0, rounds),
            }
            for name, took_s in TOOK_S.items()
        },
    )


if __name__ == "__main__":
    main()
