"""Figures of the benchmarks: percentiles, the JSON line, and progress notes."""

import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the ``ordered`` values do not exceed."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float], *, scale: float = 1.0) -> dict[str, float | int]:
    """Count, percentiles and maximum of ``values``, multiplied by ``scale``."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    quantiles = {
        name: round(percentile(ordered, share) * scale, 3) for name, share in shares.items()
    }
    return {"count": len(ordered), **quantiles}


def note(text: str) -> None:
    """Print a progress note on stderr."""
    print(text, file=sys.stderr, flush=True)


def report(name: str, figures: dict[str, Any]) -> None:
    """Print the figures as the one line on stdout, with the load of the machine."""
    load = round(os.getloadavg()[0], 2)
    print(json.dumps({"benchmark": name, "cores": os.cpu_count(), "load": load, **figures}))
