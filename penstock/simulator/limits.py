"""The API's rate limits: requests a minute, and batches in progress."""

import math
from datetime import UTC, datetime, timedelta

from penstock.simulator.errors import ApiError
from penstock.simulator.options import Options


class TokenBucket:
    """Holds the requests that one minute allows, and refills continuously."""

    def __init__(self, options: Options, now: float) -> None:
        self.capacity = options.requests_per_minute
        self.per_second = self.capacity / options.minute_seconds
        self.tokens = float(self.capacity)
        self.filled_at = now

    def spend(self, now: float) -> None:
        """Spend a token. Raises the API's 429 when there is none."""
        if not self.capacity:
            return
        self.tokens = min(self.capacity, self.tokens + (now - self.filled_at) * self.per_second)
        self.filled_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return
        wait = max(1, math.ceil((1 - self.tokens) / self.per_second))
        raise ApiError(
            "rate_limit_error",
            f"This request would exceed your organization's rate limit of "
            f"{self.capacity} requests per minute.",
            headers={"retry-after": str(wait)},
        )

    def headers(self, wall: datetime | None = None) -> dict[str, str]:
        """The anthropic-ratelimit headers; none without a limit."""
        if not self.capacity:
            return {}
        full_in = (self.capacity - self.tokens) / self.per_second
        reset = (wall or datetime.now(UTC)) + timedelta(seconds=full_in)
        name = "anthropic-ratelimit-requests"
        return {
            f"{name}-limit": str(self.capacity),
            f"{name}-remaining": str(int(self.tokens)),
            f"{name}-reset": reset.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def lane_headers(*, fast: bool, tier: str, wall: datetime | None = None) -> dict[str, str]:
    """The headers of fast mode and of the priority tier, whose limits are their own."""
    reset = (wall or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    lanes = ["anthropic-fast"] * fast + ["anthropic-priority"] * (tier == "priority")
    return {
        f"{lane}-{direction}-tokens-{name}": value
        for lane in lanes
        for direction, limit in (("input", "1000000"), ("output", "200000"))
        for name, value in (("limit", limit), ("remaining", limit), ("reset", reset))
    }


def check_batch_limits(
    options: Options, *, active: int, queued: int, new: int, wait_s: int
) -> None:
    """Raise the API's 429 when a batch of ``new`` requests would exceed a limit."""
    if options.active_batches and active >= options.active_batches:
        limit = f"limit of {options.active_batches} batches in progress"
    elif options.queued_requests and queued + new > options.queued_requests:
        limit = f"limit of {options.queued_requests} queued batch requests"
    else:
        return
    raise ApiError(
        "rate_limit_error",
        f"This request would exceed your organization's {limit}.",
        headers={"retry-after": str(wait_s)},
    )
