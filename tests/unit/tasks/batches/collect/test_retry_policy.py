"""Retry decisions: which requests are retried, and which need the operator first."""

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
        (
            Outcome("errored", "invalid_request_error", "Credit balance is too low."),
            RetryDecision(retry=True, pause="billing_error"),
        ),
        (
            Outcome("errored", "api_error", "", "contract_spend_limit_reached"),
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
def test_the_cause_of_a_failure_decides_about_its_retry(
    outcome: Outcome, expected: RetryDecision
) -> None:
    assert decide_by_cause(outcome) == expected


outcomes = st.builds(
    Outcome,
    st.sampled_from(["succeeded", "errored", "expired", "canceled"]),
    st.sampled_from(["overloaded_error", "billing_error", "invalid_request_error"]),
)


@given(outcomes, st.integers(0, 9), st.integers(0, 9))
def test_retry_rounds_are_limited_unless_the_operator_resumes_the_job_for_each(
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
def test_the_circuit_breaker_trips_on_an_error_that_most_of_enough_lines_share(
    errors: dict[str, int], lines: int, expected: str | None
) -> None:
    assert common_error(errors, lines, 0.5) == expected


@pytest.mark.parametrize(("requests", "trips"), [(9, False), (10, True)])
def test_the_circuit_breaker_needs_a_minimum_of_requests(requests: int, trips: bool) -> None:
    assert (common_error({"a": requests}, requests, 1.0) == "a") is trips


def test_a_job_pauses_for_its_operator_even_in_the_last_round() -> None:
    billing = Outcome("errored", "billing_error")
    assert decide(billing, round=3, max_retry_rounds=3, can_retry=True).pause == "billing_error"


def test_the_pause_reason_has_the_type_and_the_message_of_the_cause() -> None:
    shard = Shard(number=0, requests=20, batch_id="msgbatch_1")
    assert reason_to_pause(None, {"a": 2}, {}, shard, 0.5) is None
    remedied = reason_to_pause(("billing_error", CREDIT), {"a": 20}, {}, shard, 0.5)
    assert remedied == {"type": "billing_error", "message": CREDIT}
    canceled = reason_to_pause(("canceled_elsewhere", ""), {}, {}, shard, 0.5)
    assert canceled is not None
    assert canceled["message"].startswith("msgbatch_1 was canceled outside Penstock")
    assert reason_to_pause(None, {"a": 15}, {"a": "bad tool"}, shard, 0.5) == {
        "type": "same_error",
        "message": "15 of 20 requests of msgbatch_1 ended in a: bad tool",
    }
