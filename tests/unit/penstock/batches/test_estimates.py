"""Estimates of how much longer a job takes, from the batches before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batches.estimates import BatchDuration, Estimate, estimate_remaining
from penstock.batches.shard import Shard

NOW_MS = 1_000_000_000
MINUTE_MS = 60_000


def planned(count: int, model: str = "m", requests: int = 10_000) -> list[Shard]:
    return [Shard(number=n, requests=requests, model=model) for n in range(count)]


def running(age_ms: int, model: str = "m") -> Shard:
    created = NOW_MS - age_ms
    return Shard(number=99, state="in_progress", requests=9, model=model, created_ms=created)


def took(*minutes: float, model: str = "m") -> list[BatchDuration]:
    return [BatchDuration(model, 10_000, int(each * MINUTE_MS)) for each in minutes]


def minutes(estimate: Estimate | None) -> tuple[float, float]:
    assert estimate is not None
    return estimate.median_s / 60, estimate.high_s / 60


def test_there_is_no_estimate_without_a_history() -> None:
    assert estimate_remaining(planned(3), [], NOW_MS) is None


@pytest.mark.parametrize(
    ("shards", "width", "waves"), [(1, 1, 1), (3, 1, 3), (3, 3, 1), (5, 2, 3), (90, 90, 1)]
)
def test_shards_run_in_waves_of_the_maximum_active_batches(
    shards: int, width: int, waves: int
) -> None:
    estimate = estimate_remaining(planned(shards), took(10), NOW_MS, width=width)
    assert minutes(estimate) == (10 * waves, 10 * waves)


@pytest.mark.parametrize(
    ("shards", "requests", "waves"), [(90, 1_000, 1), (91, 1_000, 2), (4, 100_000, 2)]
)
def test_the_limits_of_the_api_bound_the_active_batches_by_default(
    shards: int, requests: int, waves: int
) -> None:
    estimate = estimate_remaining(planned(shards, requests=requests), took(10), NOW_MS)
    assert minutes(estimate) == (10 * waves, 10 * waves)


def test_the_age_of_an_active_batch_is_subtracted() -> None:
    assert minutes(estimate_remaining([running(4 * MINUTE_MS)], took(10), NOW_MS)) == (6, 6)
    both = [running(4 * MINUTE_MS), *planned(1)]
    assert minutes(estimate_remaining(both, took(10), NOW_MS, width=1)) == (16, 16)


def test_an_active_batch_is_compared_with_batches_that_took_longer() -> None:
    estimate = estimate_remaining([running(20 * MINUTE_MS)], took(1, 2, 3, 30), NOW_MS)
    assert minutes(estimate) == (10, 10)


def test_a_batch_older_than_all_others_may_take_as_long_again_up_to_a_day() -> None:
    assert minutes(estimate_remaining([running(20 * MINUTE_MS)], took(10), NOW_MS)) == (20, 20)
    assert minutes(estimate_remaining([running(20 * 60 * MINUTE_MS)], took(10), NOW_MS)) == (
        240,
        240,
    )
    assert minutes(estimate_remaining([running(30 * 60 * MINUTE_MS)], took(10), NOW_MS)) == (0, 0)


def test_a_model_is_estimated_by_its_own_history_if_that_is_long_enough() -> None:
    history = [*took(*[5] * 5, model="quick"), *took(*[50] * 5, model="slow")]
    assert minutes(estimate_remaining(planned(1, "quick"), history, NOW_MS)) == (5, 5)
    assert minutes(estimate_remaining(planned(1, "slow"), history, NOW_MS)) == (50, 50)
    few = [*took(*[5] * 5, model="other"), *took(50, model="slow")]
    assert minutes(estimate_remaining(planned(1, "slow"), few, NOW_MS))[0] == 5


def test_the_slowest_of_many_batches_decides_the_estimate() -> None:
    history = took(*[10] * 9, 60)
    assert minutes(estimate_remaining(planned(1), history, NOW_MS))[0] == 10
    assert minutes(estimate_remaining(planned(20), history, NOW_MS))[0] == 60


def test_the_high_estimate_is_exceeded_by_one_outcome_in_ten() -> None:
    middle, high = minutes(estimate_remaining(planned(1), took(*range(1, 101)), NOW_MS))
    assert 35 < middle < 65
    assert 80 < high < 100


def test_ended_shards_take_no_more_time() -> None:
    over = [Shard(number=0, state="ended"), Shard(number=1, state="collected")]
    assert estimate_remaining(over, took(10), NOW_MS) == Estimate(0.0, 0.0)
    assert minutes(estimate_remaining([*over, *planned(1)], took(10), NOW_MS)) == (10, 10)


@given(
    st.lists(st.integers(0, 86_400_000), min_size=1, max_size=30),
    st.lists(st.integers(0, 10_000_000), max_size=20),
    st.integers(0, 50),
)
def test_an_estimate_is_within_its_bounds_and_repeatable(
    durations: list[int], ages: list[int], waiting: int
) -> None:
    history = [BatchDuration("m", 1, ms) for ms in durations]
    shards = [*map(running, ages), *planned(waiting)]
    estimate = estimate_remaining(shards, history, NOW_MS, width=3)
    assert estimate is not None
    assert 0 <= estimate.median_s <= estimate.high_s
    longest = max([*durations, *(2 * age for age in ages)])
    assert estimate.high_s <= longest * (1 + waiting) / 1000
    assert estimate_remaining(shards, history, NOW_MS, width=3) == estimate
