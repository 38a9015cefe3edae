"""The API's rate limit headers: what is read from them, and that any header gives a result."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.store.limit_scripts import RequestLimit
from tasks.api.rate_limits import Lane, ReportedLimits, closed_for_s, lane_of, reported_limits
from tasks.api.retry import MAX_WAIT_S

LANE = Lane("claude-haiku-4-5")
NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
WEEKS = 3 * 7 * 86_400


def after(seconds: float) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()


def limit(kind: str, limit: str, remaining: str, reset: str, lane: str = "ratelimit") -> Any:
    name = f"anthropic-{lane}-{kind}"
    return {f"{name}-limit": limit, f"{name}-remaining": remaining, f"{name}-reset": reset}


def read(headers: dict[str, str], lane: Lane = LANE) -> ReportedLimits:
    return reported_limits(lane, headers, NOW)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("60", "12", after(48)), RequestLimit(60, 12, 48_000)),
        (("60", "60", after(-5)), RequestLimit(60, 60, 0)),
        (("60", "12", "2026-01-01T00:00:48Z"), RequestLimit(60, 12, 48_000)),
        (("60", "12", "2026-01-01T00:00:48"), RequestLimit(60, 12, 48_000)),  # without a zone
        (("1", "0", after(60)), RequestLimit(1, 0, 60_000)),
        (("60", "-5", after(60)), RequestLimit(60, 0, 60_000)),
        (("60", "99", after(60)), RequestLimit(60, 60, 60_000)),
        (("1000", "0", after(WEEKS)), RequestLimit(1000, 0, 0)),  # a quota: its pace is unknown
        (("60", "12", "9999-12-31T23:59:59Z"), RequestLimit(60, 12, 0)),
        (("60", "12", "9999-12-31T23:59:59-23:59"), RequestLimit(60, 12, 0)),
        (("60", "12", "0001-01-01T00:00:00+23:59"), RequestLimit(60, 12, 0)),
        (("0", "0", after(1)), None),
        (("-60", "0", after(1)), None),
        (("many", "12", after(1)), None),
        (("6.5", "12", after(1)), None),
        (("1e9", "12", after(1)), None),
        (("\N{ARABIC-INDIC DIGIT SIX}0", "12", after(1)), None),
        (("9" * 30, "12", after(1)), None),
        (("60", "9" * 5000, after(1)), None),
        (("60", "12", "soon"), None),
        (("60", "12", ""), None),
        (("60", "12", "10000-01-01T00:00:00Z"), None),
        (("60", "12", "6m0s"), None),
    ],
    ids=str,
)
def test_limits_on_requests_are_read_from_the_headers(
    values: tuple[str, str, str], expected: RequestLimit | None
) -> None:
    assert read(limit("requests", *values)).requests == expected


def test_a_reset_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        headers = limit("requests", "60", "12", "2026-01-01T00:00:48")
        assert read(headers).requests == RequestLimit(60, 12, 48_000)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_response_without_headers_reports_no_limits() -> None:
    assert read({}) == ReportedLimits()


@pytest.mark.parametrize("kind", ["tokens", "input-tokens", "output-tokens"])
def test_tokens_that_are_used_up_close_the_lane_until_their_reset(kind: str) -> None:
    reported = read(limit(kind, "50000", "0", after(40)))
    assert closed_for_s(reported, refused=False, retry_after_s=None) == 40
    assert closed_for_s(reported, refused=True, retry_after_s=None) == 40
    assert closed_for_s(reported, refused=True, retry_after_s=7.0) == 7


def test_the_longest_reset_counts_if_several_limits_on_tokens_are_used_up() -> None:
    headers = limit("input-tokens", "5", "0", after(20))
    headers |= limit("output-tokens", "5", "0", after(9))
    assert closed_for_s(read(headers), refused=False, retry_after_s=None) == 20


@pytest.mark.parametrize(
    "values", [("50000", "1000", after(40)), ("50000", "0", after(-1)), ("50000", "0", "soon")]
)
def test_tokens_that_are_left_close_nothing(values: tuple[str, str, str]) -> None:
    reported = read(limit("tokens", *values))
    assert closed_for_s(reported, refused=False, retry_after_s=None) is None


@pytest.mark.parametrize("kind", ["requests", "tokens", "output-tokens"])
def test_a_quota_closes_the_lane_only_after_a_refusal_and_for_the_maximum_wait(kind: str) -> None:
    reported = read(limit(kind, "1000000", "0", after(WEEKS)))
    assert closed_for_s(reported, refused=False, retry_after_s=None) is None
    assert closed_for_s(reported, refused=True, retry_after_s=None) == MAX_WAIT_S
    assert closed_for_s(reported, refused=True, retry_after_s=WEEKS) == MAX_WAIT_S


def test_requests_that_are_used_up_close_the_lane_only_after_a_refusal() -> None:
    """The bucket of requests fills continuously, so its next token comes before the reset."""
    reported = read(limit("requests", "60", "0", after(60)))
    assert closed_for_s(reported, refused=False, retry_after_s=None) is None
    assert closed_for_s(reported, refused=True, retry_after_s=None) == 60
    some_left = read(limit("requests", "60", "1", after(60)))
    assert closed_for_s(some_left, refused=True, retry_after_s=None) is None


def test_a_refusal_that_names_no_time_closes_nothing() -> None:
    assert closed_for_s(ReportedLimits(), refused=True, retry_after_s=None) is None
    assert closed_for_s(ReportedLimits(), refused=True, retry_after_s=0.0) is None
    assert closed_for_s(ReportedLimits(), refused=False, retry_after_s=30.0) is None


@pytest.mark.parametrize(
    ("body", "name", "prefix"),
    [
        ({}, "m", "anthropic-ratelimit-"),
        (None, "m", "anthropic-ratelimit-"),
        ({"speed": "standard", "service_tier": "auto"}, "m", "anthropic-ratelimit-"),
        ({"speed": "fast"}, "m fast", "anthropic-fast-"),
        ({"service_tier": "standard_only"}, "m standard_only", "anthropic-ratelimit-"),
        ({"service_tier": "priority"}, "m priority", "anthropic-priority-"),
        ({"speed": "fast", "service_tier": "x"}, "m fast x", "anthropic-fast-"),
        ({"speed": ["fast"], "service_tier": {"a": 1}}, "m", "anthropic-ratelimit-"),
        ({"speed": None, "service_tier": 7}, "m", "anthropic-ratelimit-"),
    ],
)
def test_a_lane_is_the_model_with_fast_mode_and_the_service_tier(
    body: dict[str, Any] | None, name: str, prefix: str
) -> None:
    lane = lane_of("m", body)
    assert (str(lane), lane.headers) == (name, prefix)


@pytest.mark.parametrize(
    ("lane", "header"),
    [(Lane("m", fast=True), "fast"), (Lane("m", tier="priority"), "priority"), (LANE, "ratelimit")],
)
def test_each_lane_reads_the_headers_of_its_own_limits(lane: Lane, header: str) -> None:
    for name in ("fast", "priority", "ratelimit"):
        headers = limit("input-tokens", "9", "0", after(30), name)
        headers |= limit("requests", "9", "3", after(30), name)
        expected = RequestLimit(9, 3, 30_000) if name == header else None
        assert read(headers, lane).requests == expected
        assert read(headers, lane).tokens_after_s == (30 if name == header else 0)


_counts = st.integers(-(10**20), 10**20).map(str) | st.text(max_size=8) | st.just("0")
_resets = st.datetimes().map(datetime.isoformat) | st.text(max_size=30) | st.just(after(WEEKS))
_names = st.builds(
    "anthropic-{}-{}-{}".format,
    st.sampled_from(["ratelimit", "fast", "priority"]),
    st.sampled_from(["requests", "tokens", "input-tokens", "output-tokens"]),
    st.sampled_from(["limit", "remaining", "reset"]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": ""}, 1.0)
@given(
    st.dictionaries(_names, _counts | _resets, max_size=12),
    st.none() | st.floats(0, 1e300, allow_nan=False),
)
def test_any_headers_give_a_wait_within_the_maximum(
    headers: dict[str, str], retry_after_s: float | None
) -> None:
    for lane in (LANE, Lane("m", fast=True), Lane("m", tier="priority")):
        reported = read(headers, lane)
        if reported.requests is not None:
            assert 0 <= reported.requests.remaining <= reported.requests.limit
            assert 0 <= reported.requests.full_in_ms <= MAX_WAIT_S * 1000
        for refused in (True, False):
            closed = closed_for_s(reported, refused=refused, retry_after_s=retry_after_s)
            assert closed is None or 0 < closed <= MAX_WAIT_S
