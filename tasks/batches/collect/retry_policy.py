"""Decides which requests of a batch are retried, by why they failed. Pure.

A request is retried only if its failure is transient or the operator can remedy it: a request that
the API rejects as invalid stays invalid. An account without credit shows as an
``invalid_request_error`` of every request, so there the message decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from penstock.batches.notices import PauseReason
from penstock.batches.shard import Shard
from tasks.api.retry import RETRYABLE_ERRORS, SPEND_LIMITS
from tasks.batches.result_lines import Outcome

#: Error types that the operator has to remedy before anything else of the job is sent.
OPERATOR_ERRORS: Final = frozenset(
    {
        PauseReason.BILLING_ERROR,
        PauseReason.AUTHENTICATION_ERROR,
        PauseReason.PERMISSION_ERROR,
    }
)

#: Minimum number of requests in a shard for the circuit breaker: a ratio of fewer means little.
MIN_BREAKER_LINES: Final = 10

_NO_CREDIT: Final = "credit balance"


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Whether a request is retried or its result is final."""

    retry: bool = False
    pause: str = ""  #: the reason to pause the job before the retry; empty: it is not paused


_FINAL: Final = RetryDecision()
_RETRY: Final = RetryDecision(retry=True)


def decide_by_cause(outcome: Outcome) -> RetryDecision:
    """Decide from the outcome alone, for a job that is not canceled."""
    if outcome.kind == "expired":
        return _RETRY
    if outcome.kind == "canceled":
        return RetryDecision(retry=True, pause=PauseReason.CANCELED_ELSEWHERE)
    if outcome.kind != "errored":
        return _FINAL
    if outcome.error_type in OPERATOR_ERRORS:
        return RetryDecision(retry=True, pause=outcome.error_type)
    if outcome.error_code in SPEND_LIMITS or _NO_CREDIT in outcome.message.lower():
        return RetryDecision(retry=True, pause=PauseReason.BILLING_ERROR)
    return _RETRY if outcome.error_type in RETRYABLE_ERRORS else _FINAL


def decide(
    outcome: Outcome, *, round: int, max_retry_rounds: int, can_retry: bool
) -> RetryDecision:
    """Decide for a request of a shard in this round.

    ``can_retry``: the job is not canceled, and the requests are still stored. Retries that pause
    the job are not limited by ``max_retry_rounds``: the operator has resumed the job for each.
    """
    if not can_retry:
        return _FINAL
    decision = decide_by_cause(outcome)
    return decision if decision.pause or round < max_retry_rounds else _FINAL


def common_error(errors: Mapping[str, int], lines: int, ratio: float) -> str | None:
    """Return the error type that trips the circuit breaker; None: it does not trip.

    It trips if at least ``ratio`` of a shard's ``lines`` ended in the same error. ``errors`` counts
    final results only: a request that is retried has not ended.
    """
    if lines < MIN_BREAKER_LINES or not errors:
        return None
    worst = max(errors, key=lambda each: errors[each])
    return worst if errors[worst] >= ratio * lines else None


def reason_to_pause(
    to_remedy: tuple[str, str] | None,
    errors: Mapping[str, int],
    samples: Mapping[str, str],
    shard: Shard,
    ratio: float,
) -> dict[str, str] | None:
    """Return why the job has to be paused, for its record; None: there is no reason.

    ``to_remedy``: type and message of what the operator has to remedy; it comes before the circuit
    breaker. ``samples``: a message of the API for each error type.
    """
    if to_remedy is not None:
        type, message = to_remedy
        if type == PauseReason.CANCELED_ELSEWHERE:
            message = (
                f"{shard.batch_id} was canceled outside Penstock; resume the job to send the "
                "canceled requests again, or cancel it"
            )
        return {"type": type, "message": message}
    common = common_error(errors, shard.requests, ratio)
    if common is None:
        return None
    ended = f"{errors[common]} of {shard.requests} requests of {shard.batch_id} ended in {common}"
    return {"type": PauseReason.SAME_ERROR, "message": f"{ended}: {samples.get(common, '')}"}
