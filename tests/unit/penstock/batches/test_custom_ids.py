"""custom_ids that have been used: each is found again, none is confused, little memory is used."""

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batches import custom_ids as module
from penstock.batches.custom_ids import CustomIds


@pytest.fixture(autouse=True, scope="module")
def few_are_kept_as_they_are() -> Iterator[None]:
    """So that the tables come into play."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EXACT", 10)
        patch.setattr(module, "_INITIAL_PLACES", 8)
        yield


ids = st.lists(st.text("abcdefgh", min_size=1, max_size=3), max_size=400)


@given(ids)
def test_the_line_that_used_an_id_first_is_told_of_every_later_one(custom_ids: list[str]) -> None:
    used, first = CustomIds(), dict[str, int]()
    for line, custom_id in enumerate(custom_ids, start=1):
        assert used.add(custom_id, line) == first.get(custom_id, 0)
        first.setdefault(custom_id, line)


def test_nothing_is_forgotten_while_the_tables_grow() -> None:
    used = CustomIds()
    assert not any(used.add(f"row-{line}", line) for line in range(1, 50_001))
    assert all(used.add(f"row-{line}", 99_999) == line for line in range(1, 50_001))


def test_ids_whose_places_collide_are_told_apart() -> None:
    """In a table of eight places, most ids find theirs taken."""
    used = CustomIds()
    same = [each for each in map(str, range(100_000)) if hash(each) % (64 * 8) == 7][:50]
    assert len(same) == 50
    assert not any(used.add(each, line) for line, each in enumerate(same, start=1))
    assert [used.add(each, 99) for each in same] == list(range(1, 51))


def test_the_same_line_may_not_hide_an_id_that_is_used_twice() -> None:
    used = CustomIds()
    assert [used.add("a", 1), used.add("b", 2), used.add("a", 3), used.add("a", 4)] == [0, 0, 1, 1]


def test_a_million_ids_would_take_about_27_megabytes() -> None:
    tracemalloc.start()
    try:
        used = CustomIds()
        for line in range(1, 50_001):
            used.add(f"row-{line}", line)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / 50_000 < 40
