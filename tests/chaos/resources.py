"""What the processes and Redis use, sampled during a run, and the rule for growth."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.usage import memory_mb

#: Name of a figure at one moment → its value. It is bounded if its name ends as one of `ALLOWED`.
Sample = Mapping[str, float]

#: Kind of a figure → growth that is allowed: a share of the first value, and an amount.
ALLOWED: Final[dict[str, tuple[float, float]]] = {
    "memory MB": (0.1, 8),  # the allocator keeps freed pages
    "descriptors": (0.1, 10),  # connections come and go with the load
    "threads": (0.1, 4),
    "keys": (0.25, 60),
    "clients": (0.1, 10),
}


def process_sample(name: str, pid: int) -> dict[str, float]:
    """Return what a process uses now, from ``/proc``."""
    status = Path(f"/proc/{pid}/status").read_text()
    threads = next(line for line in status.splitlines() if line.startswith("Threads:"))
    return {
        f"{name}: memory MB": memory_mb(pid),
        f"{name}: descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        f"{name}: threads": int(threads.split()[1]),
    }


def redis_sample(connection: Any) -> dict[str, float]:
    """Return what Redis holds now.

    The owners of batches are counted alone: they are kept as long as the API lists the batches.
    """
    names = list(connection.scan_iter(count=1000))
    owners = sum(b":batch-owner:" in name for name in names)
    return {
        "redis, its data: memory MB": connection.info("memory")["used_memory"] / 2**20,
        "redis: keys": len(names) - owners,
        "redis: owners of batches": owners,
        "redis: clients": connection.info("clients")["connected_clients"],
    }


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return the figures that grow although the load does not.

    The median of the last quarter is compared with that of the second: the first one belongs to
    caches and pools that fill, and single values to the moment.
    """
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    names = _bounded(early[0], late[0]) if early else []
    pairs = {
        name: (median(each[name] for each in early), median(each[name] for each in late))
        for name in names
    }
    return [
        f"{name} grew from {first:.0f} to {last:.0f} under the same load"
        for name, (first, last) in pairs.items()
        if exceeds(name, first, last)
    ]


def left_at_rest(idle: Sample, rest: Sample) -> list[str]:
    """Return the figures that are higher after the load than they were before it.

    Memory is not among them: what an allocator keeps it uses again.
    """
    return [
        f"{name} is {rest[name]:.0f} at rest and was {idle[name]:.0f} before the load"
        for name in _bounded(idle, rest)
        if not name.endswith("memory MB") and exceeds(name, idle[name], rest[name])
    ]


def _bounded(one: Sample, other: Sample) -> list[str]:
    """Return the names of the figures in both that must not grow."""
    return sorted(name for name in one.keys() & other.keys() if name.endswith(tuple(ALLOWED)))


def exceeds(name: str, first: float, last: float) -> bool:
    """Whether a figure has grown by more than is allowed for its kind."""
    share, amount = next(each for kind, each in ALLOWED.items() if name.endswith(kind))
    return last > first * (1 + share) + amount
