"""Retries: which refusals are retryable, and how long to wait."""

import email.utils
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.api.retry import MAX_WAIT_S, is_retryable, retry_after_s, wait_s


@pytest.mark.parametrize(
    ("status", "code", "should_retry", "retryable"),
    [
        (429, None, None, True),
        (529, None, None, True),
        (500, None, None, True),
        (502, None, None, True),
        (503, None, None, True),
        (504, None, None, True),
        (408, None, None, True),
        (409, None, None, True),
        (520, None, None, True),
        (400, None, None, False),
        (401, None, None, False),
        (402, None, None, False),
        (403, None, None, False),
        (404, None, None, False),
        (413, None, None, False),
        (429, "enforced_spend_limit_reached", None, False),
        (429, "contract_spend_limit_reached", None, False),
        (429, "enforced_spend_limit_reached", "true", False),
        (429, "some_other_code", None, True),
        (429, None, "false", False),
        (400, None, "true", True),
        (529, None, "false", False),
        (529, None, "maybe", True),
        (400, None, "", False),
    ],
)
def test_status_code_and_header_decide_whether_a_refusal_is_retryable(
    status: int, code: str | None, should_retry: str | None, retryable: bool
) -> None:
    assert is_retryable(status, code, should_retry) is retryable


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "-1"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "nan"}, None),
        ({"retry-after": "Wed, 21 Oct 99999999999 07:28:00 GMT"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, MAX_WAIT_S),
        ({"retry-after": "259200"}, MAX_WAIT_S),
        ({"retry-after": "1e300"}, MAX_WAIT_S),
        ({"retry-after-ms": "9" * 400}, None),
        ({"retry-after-ms": "99999999999"}, MAX_WAIT_S),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-inf"}, None),
        ({"retry-after": "1e309"}, None),
        ({"retry-after-ms": "inf", "retry-after": "9"}, 9.0),
        ({"retry-after": "\N{ARABIC-INDIC DIGIT SEVEN}"}, None),
    ],
    ids=str,
)
def test_retry_after_is_read_from_seconds_milliseconds_and_dates(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(headers) == seconds


def test_a_retry_after_date_is_converted_to_seconds_from_now() -> None:
    at = email.utils.formatdate(time.time() + 100, usegmt=True)
    asked = retry_after_s({"retry-after": at})
    assert asked is not None
    assert 90 < asked <= 100


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example("nan")
@given(st.text(max_size=20) | st.from_regex(r"-?[0-9]{1,4}(e[0-9]{1,3})?", fullmatch=True))
def test_any_retry_after_header_gives_a_valid_wait(value: str) -> None:
    asked = retry_after_s({"retry-after": value})
    assert asked is None or 0 <= asked <= MAX_WAIT_S
    assert 0 <= wait_s(1, asked, 60.0, 0.5) <= MAX_WAIT_S


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 10_000),
    st.none() | st.floats(0.001, 1e9),
    st.floats(0.1, 3600),
    st.floats(0, 1, exclude_max=True),
)
def test_the_wait_before_a_retry_is_bounded(
    refusals: int, asked: float | None, most: float, jitter: float
) -> None:
    wait = wait_s(refusals, asked, most, jitter)
    if asked is None:
        assert 0 < wait <= most
    else:
        assert min(asked, MAX_WAIT_S / 1.2) <= wait <= MAX_WAIT_S


def test_waits_before_retries_grow_up_to_the_maximum() -> None:
    waits = [wait_s(n, None, 60.0, 0.999) for n in range(1, 12)]
    assert waits == sorted(waits)
    assert waits[0] < 1.01
    assert waits[3] == pytest.approx(8.0, rel=0.01)
    assert waits[-1] == pytest.approx(60.0, rel=0.01)


def test_requests_refused_together_are_not_retried_together() -> None:
    for asked in (None, 10.0):
        assert len({wait_s(3, asked, 60.0, jitter / 10) for jitter in range(10)}) == 10


def test_a_retry_after_of_zero_still_waits() -> None:
    assert sum(wait_s(n, 0.0, 60.0, 0.5) for n in range(1, 20)) > 10
