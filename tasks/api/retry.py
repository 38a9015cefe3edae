"""What to do when the API says no; pure.

A refusal before the first byte has cost nothing and can be tried again; which ones are worth it,
and when, is decided here and nowhere else.
"""

import contextlib
import email.utils
import math
import time
from collections.abc import Mapping
from typing import Final

#: 429s that no waiting cures before somebody changes a limit.
SPEND_LIMITS: Final = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})

#: Error types of the API, in a stream or in a batch's results, after which the same request may
#: succeed. What comes with an HTTP status is decided by the status: see `is_retryable`.
RETRYABLE_ERRORS: Final = frozenset(
    {"overloaded_error", "api_error", "timeout_error", "rate_limit_error"}
)

#: Statuses below 500 that say "not now".
_RETRYABLE_STATUSES: Final = frozenset({408, 409, 429})

#: First wait after a refusal without retry-after; doubled with each further one.
FIRST_WAIT_S: Final = 1.0
#: Longest retry-after that is believed: the API's own limits refill within minutes.
MAX_RETRY_AFTER_S: Final = 900.0


def is_retryable(status: int, error_code: str | None, should_retry: str | None) -> bool:
    """Whether the same call may succeed later. ``should_retry`` is the API's own word on it
    (header ``x-should-retry``), where it gave one."""
    if error_code in SPEND_LIMITS:
        return False
    if should_retry in ("true", "false"):
        return should_retry == "true"
    # What stands before the API has statuses of its own, such as 520 to 527.
    return status in _RETRYABLE_STATUSES or status >= 500


def wait_s(refusals: int, retry_after: float | None, max_wait_s: float, jitter: float) -> float:
    """Seconds before the call is made again.

    ``api_retries`` counts this one, ``jitter`` is random in [0, 1): without it all the requests
    that one limit refused together would come back together.
    """
    if retry_after:  # zero is no answer: twenty tries would be over in a moment
        return min(retry_after, MAX_RETRY_AFTER_S) * (1 + 0.2 * jitter)
    grown = FIRST_WAIT_S * 2.0 ** min(refusals - 1, 20)
    return min(grown, max_wait_s) * (0.5 + 0.5 * jitter)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What the API asks for (``retry-after-ms``, ``retry-after`` in seconds or as a date)."""
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
