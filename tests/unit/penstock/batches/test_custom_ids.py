"""The custom_ids of a job: each duplicate is found, no other id is refused, in little memory."""

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batches import custom_ids as module
from penstock.batches.custom_ids import CustomIds


@pytest.fixture(autouse=True, scope="module")
def small_tables() -> Iterator[None]:
    """Use tables from eleven ids on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EXACT", 10)
        patch.setattr(module, "_INITIAL_PLACES", 8)
        yield


ids = st.lists(st.text("abcdefgh", min_size=1, max_size=3), max_size=400)


@given(ids)
def test_a_duplicate_custom_id_is_reported_with_the_line_that_used_it_first(
    custom_ids: list[str],
) -> None:
    used, first = CustomIds(), dict[str, int]()
    for line, custom_id in enumerate(custom_ids, start=1):
        assert used.add(custom_id, line) == first.get(custom_id, 0)
        first.setdefault(custom_id, line)


def test_no_custom_id_is_lost_while_the_tables_grow() -> None:
    used = CustomIds()
    assert not any(used.add(f"row-{line}", line) for line in range(1, 50_001))
    assert all(used.add(f"row-{line}", 99_999) == line for line in range(1, 50_001))


def test_custom_ids_with_colliding_places_are_distinguished() -> None:
    """In a table of eight places, most ids find their place taken."""
    used = CustomIds()
    same = [each for each in map(str, range(100_000)) if hash(each) % (64 * 8) == 7][:50]
    assert len(same) == 50
    assert not any(used.add(each, line) for line, each in enumerate(same, start=1))
    assert [used.add(each, 99) for each in same] == list(range(1, 51))


def test_a_custom_id_keeps_the_line_that_used_it_first() -> None:
    used = CustomIds()
    assert [used.add("a", 1), used.add("b", 2), used.add("a", 3), used.add("a", 4)] == [0, 0, 1, 1]


def test_a_custom_id_takes_less_than_40_bytes() -> None:
    tracemalloc.start()
    try:
        used = CustomIds()
        for line in range(1, 50_001):
            used.add(f"row-{line}", line)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / 50_000 < 40
