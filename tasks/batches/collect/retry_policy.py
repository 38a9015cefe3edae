"""Which requests of a batch are sent once more, by the cause of their failure; pure.

Only what waiting or a person can cure is tried again: a request that the API finds invalid stays
invalid. An empty account is told as an ``invalid_request_error`` of every line, so there the words
decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from penstock.batches.notices import PauseReason
from penstock.batches.shard import Shard
from tasks.api.retry import RETRYABLE_ERRORS, SPEND_LIMITS
from tasks.batches.result_lines import Outcome

#: Errors that somebody has to remedy before anything else is sent.
OPERATOR_ERRORS: Final = frozenset(
    {
        PauseReason.BILLING_ERROR,
        PauseReason.AUTHENTICATION_ERROR,
        PauseReason.PERMISSION_ERROR,
    }
)

#: The breaker needs so many lines before a share of them says anything.
MIN_BREAKER_LINES: Final = 10

_NO_CREDIT: Final = "credit balance"


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What becomes of a request: its result is final, or it is sent again."""

    retry: bool = False
    pause: str = ""  #: the job is paused first, for a reason of this type


_FINAL: Final = RetryDecision()
_RETRY: Final = RetryDecision(retry=True)


def decide_by_cause(outcome: Outcome) -> RetryDecision:
    """What becomes of a request of a job that nobody cancels."""
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
    """Decide in a shard of this round. ``can_retry``: requests can be sent again at all: nobody
    cancels the job, and they are still there.

    A round that a person has to let go on is not counted: each has been asked for.
    """
    if not can_retry:
        return _FINAL
    found = decide_by_cause(outcome)
    return found if found.pause or round < max_retry_rounds else _FINAL


def common_error(errors: Mapping[str, int], lines: int, ratio: float) -> str | None:
    """The error that trips the breaker: so large a ``share`` of a shard's ``lines`` ended in it.
    ``errors`` has those that are final: what is tried again has not ended."""
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
    """Why nothing more of the job is to be sent, for its record: what has to be cured (type and
    the API's words), or the error that most lines share. None: there is no reason."""
    if to_remedy is not None:
        type, words = to_remedy
        if type == PauseReason.CANCELED_ELSEWHERE:
            words = (
                f"{shard.batch_id} was canceled, and not by Penstock; resume the job to send the "
                "canceled requests again, or cancel it"
            )
        return {"type": type, "message": words}
    common = common_error(errors, shard.requests, ratio)
    if common is None:
        return None
    ended = f"{errors[common]} of {shard.requests} requests of {shard.batch_id} ended in {common}"
    return {"type": PauseReason.SAME_ERROR, "message": f"{ended}: {samples.get(common, '')}"}
