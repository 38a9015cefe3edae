"""The token bucket and the options."""

from dataclasses import fields
from datetime import UTC, datetime

import pytest

from penstock.simulator.errors import ApiError
from penstock.simulator.limits import TokenBucket
from penstock.simulator.options import Options


def test_an_empty_token_bucket_refuses_with_retry_after() -> None:
    """In whole seconds, rounded up."""
    bucket = TokenBucket(Options(requests_per_minute=2, minute_seconds=60), 0.0)
    bucket.spend(0.0)
    bucket.spend(0.0)
    with pytest.raises(ApiError) as refused:
        bucket.spend(0.5)
    assert refused.value.status == 429
    assert refused.value.headers == {"retry-after": "30"}
    bucket.spend(0.5 + 30)


def test_the_rate_limit_headers_show_the_remaining_tokens() -> None:
    """And when the bucket will be full again."""
    bucket = TokenBucket(Options(requests_per_minute=60), 0.0)
    bucket.spend(0.0)
    assert bucket.headers(datetime(2026, 1, 1, tzinfo=UTC)) == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:01Z",
    }


def test_without_a_rate_limit_there_are_no_refusals_and_no_headers() -> None:
    """This is the default."""
    bucket = TokenBucket(Options(), 0.0)
    for _ in range(100):
        bucket.spend(0.0)
    assert bucket.headers() == {}


def test_every_option_is_documented() -> None:
    """The command's help is generated from it."""
    assert all(each.metadata["doc"].endswith(".") for each in fields(Options))


@pytest.mark.parametrize(
    "values",
    [{"rate": -1}, {"rate": "x"}, {"rates": 1}, {"minute_seconds": 0}, {"deltas": 1.5}],
)
def test_an_invalid_option_is_an_error(values: dict[str, float]) -> None:
    """It names the option."""
    with pytest.raises((ValueError, TypeError), match=next(iter(values))):
        Options().changed(values)
