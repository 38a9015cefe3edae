"""What the API's headers say about its rate limits. Pure; any header gives a result.

The API has limits of their own for each model, for fast mode and for each service tier: a lane.
A rate limit is full again within minutes. A reset further ahead than `MAX_WAIT_S` belongs to a
quota, or is an error of a proxy: it says nothing of the pace of calls.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from penstock.store.limit_scripts import RequestLimit
from tasks.api.retry import MAX_WAIT_S

_COUNT: Final = re.compile(r"-?[0-9]{1,15}")
_TOKENS: Final = ("tokens", "input-tokens", "output-tokens")


class Lane(NamedTuple):
    """Calls that share the API's rate limits; its text is the name of the lane in keys."""

    model: str
    fast: bool = False  #: ``speed: "fast"`` in the body
    tier: str = ""  #: ``service_tier`` in the body, unless it is the default, ``auto``

    def __str__(self) -> str:
        return " ".join(filter(None, (self.model, "fast" if self.fast else "", self.tier)))

    @property
    def headers(self) -> str:
        """The beginning of the names of the headers that report this lane's limits.

        Requests of the tier ``auto`` count against the ordinary limits, also while they use the
        organization's priority capacity.
        """
        if self.fast:
            return "anthropic-fast-"
        return "anthropic-priority-" if self.tier == "priority" else "anthropic-ratelimit-"


@dataclass(frozen=True, slots=True)
class ReportedLimits:
    """What the headers of one response said of the limits of its lane."""

    requests: RequestLimit | None = None  #: None: no limit on requests, or malformed headers
    tokens_after_s: float = 0.0  #: until tokens are there again; 0 if there are some
    quota_after_s: float = 0.0  #: until everything that is used up is there again; may be weeks


def lane_of(model: str, body: Mapping[str, Any] | None) -> Lane:
    """Return the lane of a request; ``body`` None: it has expired."""
    body = body or {}
    tier = body.get("service_tier")
    named = tier[:40] if isinstance(tier, str) and tier != "auto" else ""
    return Lane(model, body.get("speed") == "fast", named)


def reported_limits(lane: Lane, headers: Mapping[str, str], now_s: float) -> ReportedLimits:
    """Read the headers of a response. What is missing or malformed counts as not reported."""
    requests = _limit(headers, f"{lane.headers}requests", now_s)
    after = [_empty_s(headers, f"{lane.headers}{kind}", now_s) for kind in _TOKENS]
    rate_limits = [seconds for seconds in after if seconds <= MAX_WAIT_S]
    if requests is None:
        return ReportedLimits(None, max(rate_limits, default=0.0), max(after))
    limit, remaining, full_s = requests
    full_in_ms = int(full_s * 1000) if full_s <= MAX_WAIT_S else 0
    return ReportedLimits(
        RequestLimit(limit, remaining, full_in_ms),
        max(rate_limits, default=0.0),
        max(*after, 0.0 if remaining else full_s),
    )


def closed_for_s(
    reported: ReportedLimits, *, refused: bool, retry_after_s: float | None
) -> float | None:
    """Return the seconds for which no call of the lane may be made; None if calls may be made.

    After a refusal these are the seconds that the API asks for, or those until what is used up is
    there again. After an answer only tokens that are used up close the lane.
    """
    if not refused:
        return reported.tokens_after_s or None
    asked = retry_after_s or reported.quota_after_s
    return min(asked, MAX_WAIT_S) if asked else None


def _limit(headers: Mapping[str, str], name: str, now_s: float) -> tuple[int, int, float] | None:
    """Read limit, remaining and the seconds until it is full again."""
    limit, remaining = _count(headers.get(f"{name}-limit")), _remaining(headers, name)
    full_s = _reset_s(headers.get(f"{name}-reset"), now_s)
    if limit is None or limit < 1 or remaining is None or full_s is None:
        return None
    return limit, min(remaining, limit), full_s


def _empty_s(headers: Mapping[str, str], name: str, now_s: float) -> float:
    """Return the seconds until a limit is full again if nothing of it is left; else 0.

    The API rounds remaining tokens to thousands: zero is less than one typical call needs.
    """
    if _remaining(headers, name) != 0:
        return 0.0
    return _reset_s(headers.get(f"{name}-reset"), now_s) or 0.0


def _remaining(headers: Mapping[str, str], name: str) -> int | None:
    remaining = _count(headers.get(f"{name}-remaining"))
    return None if remaining is None else max(remaining, 0)


def _count(text: str | None) -> int | None:
    count = (text or "").strip()
    return int(count) if _COUNT.fullmatch(count) else None


def _reset_s(text: str | None, now_s: float) -> float | None:
    """Return the seconds until a time in the format of RFC 3339; 0 if it has passed."""
    try:
        reset = datetime.fromisoformat((text or "").strip())
        if reset.tzinfo is None:
            reset = reset.replace(tzinfo=UTC)
        return max((reset - datetime.fromtimestamp(0, UTC)).total_seconds() - now_s, 0.0)
    except (ValueError, OverflowError):
        return None
