"""The clock: every time in a record is in milliseconds."""

import time


def now_ms() -> int:
    """Milliseconds since 1970, the unit of every time in a record."""
    return time.time_ns() // 1_000_000
