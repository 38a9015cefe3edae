"""The options of a submission: limits, and betas in headers."""

from typing import Any

import pytest

from penstock.api_limits import MAX_BATCH_REQUESTS
from penstock.batches.options import MAX_CANARY, SubmissionOptions
from penstock.errors import InvalidRequest


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("betas", "one", "betas"),
        ("betas", ["a,b"], "betas"),
        ("betas", ["a b"], "betas"),
        ("betas", [""], "betas"),
        ("betas", [5], "betas"),
        ("betas", None, "betas"),
        ("headers", {"x-api-key": "secret"}, "extra_headers.x-api-key"),
        ("headers", {"anthropic-beta": "a\nb"}, "extra_headers.anthropic-beta"),
        ("max_cost_usd", 0, "max_cost_usd"),
        ("max_cost_usd", -1.0, "max_cost_usd"),
        ("max_cost_usd", float("nan"), "max_cost_usd"),
        ("max_cost_usd", float("inf"), "max_cost_usd"),
        ("max_cost_usd", "5", "max_cost_usd"),
        ("max_cost_usd", True, "max_cost_usd"),
        ("canary", -1, "canary"),
        ("canary", MAX_CANARY + 1, "canary"),
        ("canary", 1.0, "canary"),
        ("canary", True, "canary"),
        ("shard_requests", 0, "shard_requests"),
        ("shard_requests", MAX_BATCH_REQUESTS + 1, "shard_requests"),
        ("shard_requests", "10", "shard_requests"),
    ],
)
def test_an_invalid_option_is_refused_by_its_name(option: str, value: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SubmissionOptions(**{option: value})
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


def test_options_at_their_limits_are_accepted() -> None:
    assert SubmissionOptions(
        max_cost_usd=0.01, canary=MAX_CANARY, shard_requests=MAX_BATCH_REQUESTS
    )
    assert SubmissionOptions(max_cost_usd=5, canary=0, shard_requests=1)


def test_betas_of_options_and_headers_are_sorted_and_each_listed_once() -> None:
    options = SubmissionOptions(
        betas=["b", "a", "b"], headers={"Anthropic-Beta": "c, a", "anthropic-version": "2023-06-01"}
    )
    assert options.all_betas == ("a", "b", "c")
    assert options.other_headers == {"anthropic-version": "2023-06-01"}
