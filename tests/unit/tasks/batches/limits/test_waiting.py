"""How long a shard waits for a slot or for money, by the size of its job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.batches.limits.waiting import scaled_wait_s


@pytest.mark.parametrize(
    ("seconds", "shards_left", "wait_s"),
    [(20, 0, 20), (20, 100, 20), (20, 500, 100), (20, 1_000_000, 400), (600, 1_000_000, 600)],
)
def test_shards_of_a_large_job_wait_longer_up_to_a_maximum(
    seconds: float, shards_left: int, wait_s: float
) -> None:
    assert scaled_wait_s(seconds, shards_left) == wait_s


@given(st.floats(0.1, 1_000), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_wait_never_shrinks_as_the_job_grows(seconds: float, one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert seconds <= scaled_wait_s(seconds, small) <= scaled_wait_s(seconds, large)
