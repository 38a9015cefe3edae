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

#: Errors with which the API refuses a call for now, and the status of each. After status 200, as
#: the first event or as the whole body, they are a refusal as well, and free.
REFUSALS: Final = {"rate_limit_error": 429, "overloaded_error": 529}

#: Statuses below 500 after which the same call may succeed later.
_RETRYABLE_STATUSES: Final = frozenset({408, 409, 429})

#: Seconds until the first retry without a retry-after; doubled for each further retry.
FIRST_WAIT_S: Final = 1.0
#: Maximum seconds of every wait: before a retry, for a rate limit, for a batch. The API's limits
#: refill within minutes; after a longer retry-after the call is made again, and costs nothing if it
#: is refused. Far below the broker's visibility timeout, which redelivers messages that wait.
MAX_WAIT_S: Final = 900.0


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
    """Return the seconds until the call is retried, at most `MAX_WAIT_S`.

    ``retries`` includes this one. ``jitter`` is random in [0, 1): without it all requests that were
    refused together would be retried together.
    """
    if retry_after:  # zero does not count: twenty retries would be over in a moment
        return min(min(retry_after, MAX_WAIT_S / 1.2) * (1 + 0.2 * jitter), MAX_WAIT_S)
    grown = FIRST_WAIT_S * 2.0 ** min(retries - 1, 20)
    return min(grown, max_wait_s, MAX_WAIT_S) * (0.5 + 0.5 * jitter)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``retry-after-ms`` or ``retry-after`` (may be a date).

    At most `MAX_WAIT_S`. None if there is no such header, or one that names no time, such as
    ``inf``.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        with contextlib.suppress(ValueError):
            asked = float(text) * unit if text.isascii() else math.nan
            if math.isfinite(asked):
                return min(max(asked, 0.0), MAX_WAIT_S)
    try:
        parsed = email.utils.parsedate_tz(headers.get("retry-after", ""))
        if parsed is None:
            return None
        return min(max(email.utils.mktime_tz(parsed) - time.time(), 0.0), MAX_WAIT_S)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
