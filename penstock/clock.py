"""The clock: each time in a record is in milliseconds since 1970."""

import time


def now_ms() -> int:
    """The current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
