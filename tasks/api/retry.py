"""Decides which failed calls of the API are retried, and when. Pure.

A call that is refused before the first byte has cost nothing and can be retried.
"""

import contextlib
import email.utils
import math
import time
from collections.abc import Mapping
from typing import Final

#: Codes of 429s that stay until an administrator raises the spend limit.
SPEND_LIMITS: Final = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})

#: Error types of the API, in a stream or in a batch's results, after which the same request may
#: succeed. An error with an HTTP status is decided by that status instead: `is_retryable`.
RETRYABLE_ERRORS: Final = frozenset(
    {"overloaded_error", "api_error", "timeout_error", "rate_limit_error"}
)

#: Statuses below 500 after which the same call may succeed later.
_RETRYABLE_STATUSES: Final = frozenset({408, 409, 429})

#: Seconds until the first retry without a retry-after; doubled for each further retry.
FIRST_WAIT_S: Final = 1.0
#: Maximum seconds of a retry-after that are honoured: the API's limits refill within minutes.
MAX_RETRY_AFTER_S: Final = 900.0


def is_retryable(status: int, error_code: str | None, should_retry: str | None) -> bool:
    """Whether the same call may succeed later.

    ``should_retry``: the response's header ``x-should-retry``, which decides if it is given.
    """
    if error_code in SPEND_LIMITS:
        return False
    if should_retry in ("true", "false"):
        return should_retry == "true"
    # Proxies in front of the API have statuses of their own, such as 520 to 527.
    return status in _RETRYABLE_STATUSES or status >= 500


def wait_s(retries: int, retry_after: float | None, max_wait_s: float, jitter: float) -> float:
    """Return the seconds until the call is retried.

    ``retries`` includes this one. ``jitter`` is random in [0, 1): without it all requests that were
    refused together would be retried together.
    """
    if retry_after:  # zero does not count: twenty retries would be over in a moment
        return min(retry_after, MAX_RETRY_AFTER_S) * (1 + 0.2 * jitter)
    grown = FIRST_WAIT_S * 2.0 ** min(retries - 1, 20)
    return min(grown, max_wait_s) * (0.5 + 0.5 * jitter)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``retry-after-ms`` or ``retry-after`` (may be a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            asked = float(headers.get(name, "")) * unit
            if not math.isnan(asked):
                return max(asked, 0.0)
    try:
        parsed = email.utils.parsedate_tz(headers.get("retry-after", ""))
        return None if parsed is None else max(email.utils.mktime_tz(parsed) - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
