"""The interval of polls: short enough to notice the end of a batch soon, with few calls."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.batches.poll import next_poll_s

DEFAULTS = {"share": 0.05, "shortest_s": 5.0, "longest_s": 300.0}
jitters = st.floats(0, 1)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(-1e6, 1e7), st.floats(0.001, 1), st.floats(0.1, 60), st.floats(60, 900), jitters)
def test_the_interval_stays_within_its_bounds(
    age: float, share: float, shortest: float, longest: float, jitter: float
) -> None:
    wait = next_poll_s(age, share=share, shortest_s=shortest, longest_s=longest, jitter=jitter)
    assert shortest <= wait <= longest


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(0, 1e5), st.floats(0, 1e5), jitters)
def test_an_older_batch_is_never_polled_sooner(one: float, other: float, jitter: float) -> None:
    young, old = sorted((one, other))
    waits = [next_poll_s(age, **DEFAULTS, jitter=jitter) for age in (young, old)]
    assert waits[0] <= waits[1]


def polls(took_s: float, jitter: float) -> tuple[int, float]:
    """Number of polls until a batch is seen to have ended, and seconds from its end to that."""
    age, count = 0.0, 1
    while age < took_s:
        age += next_poll_s(age, **DEFAULTS, jitter=jitter)
        count += 1
    return count, age - took_s


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("took_s", "max_polls"), [(10, 4), (600, 70), (3600, 110), (20 * 3600, 340)]
)
def test_polls_are_few_and_the_end_is_noticed_soon(
    took_s: float, max_polls: int, jitter: float
) -> None:
    count, late_s = polls(took_s, jitter)
    assert count <= max_polls
    assert late_s <= max(5.0, 0.055 * (took_s + late_s))


def test_batches_that_were_created_together_do_not_stay_in_step() -> None:
    assert next_poll_s(1000, **DEFAULTS, jitter=0) < next_poll_s(1000, **DEFAULTS, jitter=1)
