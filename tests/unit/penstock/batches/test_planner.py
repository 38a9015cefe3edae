"""The division of a job into shards: limits, order, and sizes that differ."""

from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api_limits import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS
from penstock.batches.planner import MAX_SIZES, PlannedShard, Planner

EMPTY = 15
NO_BETAS: tuple[str, ...] = ()

Line = tuple[int, tuple[str, ...]]

lines = st.lists(
    st.tuples(st.integers(1, 400), st.sampled_from([NO_BETAS, ("a",), ("a", "b")])), max_size=80
)


def planner(**options: Any) -> Planner:
    return Planner(**{"requests": 10, "bytes": 1_000, "empty": EMPTY, **options})


def divided(plan: Planner, requests: list[Line]) -> dict[int, list[Line]]:
    """Shard number → its requests."""
    shards: dict[int, list[Line]] = {}
    for size, betas in requests:
        shard, closed = plan.place(size, betas)
        shards.setdefault(shard.number, []).append((size, betas))
        if closed is not None:
            assert closed.number < shard.number
            assert closed.betas == betas
    return shards


def sizes(plan: Planner, count: int) -> list[int]:
    """The number of requests of the first full shards."""
    found: list[int] = []
    while len(found) < count:
        _, closed = plan.place(1, NO_BETAS)
        if closed is not None:
            found.append(closed.requests)
    return found


@given(lines, st.integers(1, 30), st.integers(1, 2_000), st.integers(0, 10_000))
def test_every_shard_keeps_the_limits_on_requests_and_bytes(
    requests: list[Line], most: int, most_bytes: int, offset: int
) -> None:
    plan = planner(requests=most, bytes=most_bytes, offset=offset)
    shards = divided(plan, requests)
    assert sum(len(each) for each in shards.values()) == len(requests)
    assert list(shards) == sorted(shards) == list(range(len(shards)))
    for held in shards.values():
        assert 1 <= len(held) <= most
        assert len({betas for _, betas in held}) == 1
        total = EMPTY + sum(size for size, _ in held) + len(held) - 1
        assert total <= most_bytes or len(held) == 1


@given(lines)
def test_a_shard_counts_its_requests_and_bytes(requests: list[Line]) -> None:
    plan = planner(requests=7)
    last: dict[int, PlannedShard] = {}
    held: dict[int, list[int]] = {}
    for size, betas in requests:
        shard, _ = plan.place(size, betas)
        last[shard.number] = shard
        held.setdefault(shard.number, []).append(size)
    for number, shard in last.items():
        assert shard.requests == len(held[number])
        assert shard.size == EMPTY + sum(held[number]) + len(held[number]) - 1


@given(lines)
def test_requests_with_the_same_betas_keep_their_order(requests: list[Line]) -> None:
    plan = planner(requests=3)
    for betas in {betas for _, betas in requests}:
        ours = [plan.place(size, its)[0].number for size, its in requests if its == betas]
        assert ours == sorted(ours)


@given(st.integers(20, MAX_BATCH_REQUESTS), st.integers(0, 2**40))
def test_full_shards_differ_in_size_by_at_most_a_twentieth(most: int, offset: int) -> None:
    plan = planner(requests=most, offset=offset)
    count = min(MAX_SIZES, most // 20)
    found = [plan._size(number) for number in range(count)]
    assert len(set(found)) == count
    assert most - most / 20 < min(found) <= max(found) == most


def test_two_jobs_begin_with_different_sizes() -> None:
    assert sizes(planner(requests=1_000, bytes=10**6, offset=3), 3) == [997, 996, 995]
    assert sizes(planner(requests=1_000, bytes=10**6, offset=48), 3) == [952, 951, 1_000]


@pytest.mark.parametrize("most", [1, 2, 19])
def test_small_shards_all_have_the_maximum_size(most: int) -> None:
    assert sizes(planner(requests=most, offset=5), 3) == [most] * 3


def test_a_request_larger_than_a_shard_has_a_shard_of_its_own() -> None:
    shards = divided(planner(), [(10, NO_BETAS), (5_000, NO_BETAS), (10, NO_BETAS)])
    assert [[size for size, _ in held] for held in shards.values()] == [[10], [5_000], [10]]


def test_a_body_may_reach_the_limit_on_bytes_exactly() -> None:
    half = (1_000 - EMPTY - 1) // 2
    assert len(divided(planner(), [(half, NO_BETAS), (half, NO_BETAS)])) == 1
    assert len(divided(planner(), [(half, NO_BETAS), (half + 1, NO_BETAS)])) == 2


def test_settings_cannot_exceed_the_limits_of_the_api() -> None:
    plan = planner(requests=10**9, bytes=10**12)
    assert max(plan._size(number) for number in range(MAX_SIZES)) == MAX_BATCH_REQUESTS
    large = MAX_BATCH_BYTES // 3
    assert len(divided(plan, [(large, NO_BETAS)] * 3)) == 2


def test_the_first_requests_are_the_canary() -> None:
    plan = planner(canary=3, requests=4)
    placed = [plan.place(900, NO_BETAS)[0] for _ in range(5)]
    assert [shard.number for shard in placed] == [0, 0, 0, 1, 2]
    assert [shard.live for shard in placed] == [True, True, True, False, False]


def test_each_set_of_betas_has_its_own_shard_in_the_order_of_their_first_requests() -> None:
    plan = planner()
    mixed = [("b",), NO_BETAS, ("b",), ("a", "b"), NO_BETAS]
    assert [plan.place(1, betas)[0].number for betas in mixed] == [0, 1, 0, 2, 1]


def test_many_sets_of_betas_do_not_close_the_shards_of_others() -> None:
    plan = planner(requests=100)
    sets = [(f"beta-{number}",) for number in range(40)]
    for betas in sets * 50:
        plan.place(1, betas)
    shards = [plan.place(1, betas)[0] for betas in islice(sets, 40)]
    assert sorted(shard.number for shard in shards) == list(range(40))
