"""Which requests are sent once more, and when somebody has to be asked first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batches.shard import Shard
from tasks.batches.collect.retry_policy import (
    RetryDecision,
    common_error,
    decide,
    decide_by_cause,
    reason_to_pause,
)
from tasks.batches.result_lines import Outcome

CREDIT = "Your credit balance is too low to access the Anthropic API."


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome("succeeded"), RetryDecision()),
        (Outcome("expired"), RetryDecision(retry=True)),
        (Outcome("canceled"), RetryDecision(retry=True, pause="canceled_elsewhere")),
        (Outcome("errored", "overloaded_error"), RetryDecision(retry=True)),
        (Outcome("errored", "api_error"), RetryDecision(retry=True)),
        (Outcome("errored", "timeout_error"), RetryDecision(retry=True)),
        (Outcome("errored", "rate_limit_error"), RetryDecision(retry=True)),
        (
            Outcome("errored", "rate_limit_error", "", "enforced_spend_limit_reached"),
            RetryDecision(retry=True, pause="billing_error"),
        ),
        (Outcome("errored", "billing_error"), RetryDecision(retry=True, pause="billing_error")),
        (
            Outcome("errored", "authentication_error"),
            RetryDecision(retry=True, pause="authentication_error"),
        ),
        (
            Outcome("errored", "permission_error"),
            RetryDecision(retry=True, pause="permission_error"),
        ),
        (
            Outcome("errored", "invalid_request_error", CREDIT),
            RetryDecision(retry=True, pause="billing_error"),
        ),
        (Outcome("errored", "invalid_request_error", "messages: required"), RetryDecision()),
        (Outcome("errored", "not_found_error"), RetryDecision()),
        (Outcome("errored", "request_too_large"), RetryDecision()),
        (Outcome("errored", "an_error_of_next_year"), RetryDecision()),
        (Outcome("errored"), RetryDecision()),
        (Outcome("postponed"), RetryDecision()),
        (Outcome("succeeded", message=CREDIT), RetryDecision()),
    ],
)
def test_the_cause_decides(outcome: Outcome, expected: RetryDecision) -> None:
    assert decide_by_cause(outcome) == expected


outcomes = st.builds(
    Outcome,
    st.sampled_from(["succeeded", "errored", "expired", "canceled"]),
    st.sampled_from(["overloaded_error", "billing_error", "invalid_request_error"]),
)


@given(outcomes, st.integers(0, 9), st.integers(0, 9))
def test_rounds_are_bounded_unless_somebody_lets_them_go_on(
    outcome: Outcome, round: int, limit: int
) -> None:
    found = decide(outcome, round=round, max_retry_rounds=limit, can_retry=True)
    assert found in (decide_by_cause(outcome), RetryDecision())
    assert found.retry == (decide_by_cause(outcome).retry and (round < limit or bool(found.pause)))
    assert decide(outcome, round=round, max_retry_rounds=limit, can_retry=False) == RetryDecision()


@pytest.mark.parametrize(
    ("errors", "lines", "expected"),
    [
        ({}, 100, None),
        ({"a": 9}, 9, None),
        ({"a": 5}, 10, "a"),
        ({"a": 4, "b": 4}, 10, None),
        ({"a": 3, "b": 6}, 10, "b"),
    ],
)
def test_the_breaker_needs_one_error_in_most_of_enough_lines(
    errors: dict[str, int], lines: int, expected: str | None
) -> None:
    assert common_error(errors, lines, 0.5) == expected


def test_the_reason_says_what_is_wrong_in_one_sentence() -> None:
    shard = Shard(number=0, requests=20, batch_id="msgbatch_1")
    assert reason_to_pause(None, {"a": 2}, {}, shard, 0.5) is None
    cured = reason_to_pause(("billing_error", CREDIT), {"a": 20}, {}, shard, 0.5)
    assert cured == {"type": "billing_error", "message": CREDIT}
    canceled = reason_to_pause(("canceled_elsewhere", ""), {}, {}, shard, 0.5)
    assert canceled is not None
    assert canceled["message"].startswith("msgbatch_1 was canceled outside Penstock")
    assert reason_to_pause(None, {"a": 15}, {"a": "bad tool"}, shard, 0.5) == {
        "type": "same_error",
        "message": "15 of 20 requests of msgbatch_1 ended in a: bad tool",
    }
