"""What every benchmark does with its numbers: percentiles, one JSON line, notes on the way."""

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
    """Count, median, p99 and maximum of ``values``, each multiplied by ``scale``."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    told = {name: round(percentile(ordered, share) * scale, 3) for name, share in shares.items()}
    return {"count": len(ordered), **told}


def note(text: str) -> None:
    """Say on stderr how far the measurement is."""
    print(text, file=sys.stderr, flush=True)


def report(name: str, figures: dict[str, Any]) -> None:
    """Print the figures: the one line on stdout. The load tells how busy the machine was."""
    load = round(os.getloadavg()[0], 2)
    print(json.dumps({"benchmark": name, "cores": os.cpu_count(), "load": load, **figures}))
