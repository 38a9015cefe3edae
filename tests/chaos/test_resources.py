"""Growth of what processes use: the rule of the soak."""

import pytest

from tests.chaos.resources import growth, left_at_rest

NAME = "worker: memory MB"


def samples(*values: float) -> list[dict[str, float]]:
    return [{NAME: value} for value in values]


@pytest.mark.parametrize(
    "values",
    [
        [50, 80, 100, 100, 100, 101, 100, 100],  # it warms up
        [100, 100, 100, 100, 300, 100, 100, 101],  # one peak
        [100, 100, 100, 100, 100, 100, 117, 117],
    ],
)
def test_memory_that_fills_or_peaks_once_does_not_grow(values: list[float]) -> None:
    assert growth(samples(*values)) == []


def test_memory_that_grows_under_the_same_load_is_reported() -> None:
    [found] = growth(samples(*range(100, 200, 10)))
    assert found == f"{NAME} grew from 125 to 185 under the same load"


def test_descriptors_and_keys_must_be_released_at_rest_but_not_memory() -> None:
    idle = {"worker: descriptors": 20.0, "redis: keys": 10.0, NAME: 50.0}
    assert left_at_rest(idle, {"worker: descriptors": 30.0, "redis: keys": 70.0, NAME: 500.0}) == []
    assert left_at_rest(idle, {"worker: descriptors": 40.0, "redis: keys": 90.0, NAME: 50.0}) == [
        "redis: keys is 90 at rest and was 10 before the load",
        "worker: descriptors is 40 at rest and was 20 before the load",
    ]
