"""Blocks: starts, pieces and rewinds, as workers and readers both apply them."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.streams.blocks import Block, Blocks


def blocks(*kinds_and_texts: tuple[str, str]) -> Blocks:
    found = Blocks()
    for index, (kind, text) in enumerate(kinds_and_texts):
        found.start(index, Block(kind))
        found[index].pieces += text
    return found


def test_the_visible_text_is_the_text_blocks_in_the_order_of_their_indexes() -> None:
    found = blocks(("text", "one"), ("thinking", "hidden"), ("tool_use", "{}"), ("text", "two"))
    found[-1] = Block("text", "before ")
    assert found.text == "before onetwo"


def test_the_start_of_a_block_replaces_it_and_all_later_blocks() -> None:
    found = blocks(("text", "one"), ("text", "two"), ("text", "three"))
    found.start(1, Block("tool_use"))
    assert [each.kind for each in found.values()] == ["text", "tool_use"]
    assert found.end == 2


@pytest.mark.parametrize(
    ("index", "offset", "left"),
    [
        (1, 2, ["one", "tw"]),
        (1, 0, ["one"]),
        (2, 1, ["one", "two"]),  # half a tool call is of no use
        (2, 0, ["one", "two"]),
        (3, 0, ["one", "two", "{}"]),
        (4, 1, ["one", "two", "{}", "three"]),
        (0, 0, []),
    ],
)
def test_a_rewind_cuts_text_and_discards_other_blocks_whole(
    index: int, offset: int, left: list[str]
) -> None:
    found = blocks(("text", "one"), ("thinking", "two"), ("tool_use", "{}"), ("text", "three"))
    found.rewind(index, offset)
    assert [each.text for each in found.values()] == left


def test_the_next_index_follows_the_last_block() -> None:
    assert Blocks().end == 0
    assert blocks(("text", "a"), ("text", "b")).end == 2


def test_no_event_of_a_block_looks_at_all_blocks() -> None:
    class Watched(Blocks):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("all blocks were looked at")

    found = Watched()
    for index in range(100):
        found.start(index, Block("text"))
        found.add_text(index, {"type": "text_delta", "text": str(index)})
    found.rewind(90, 1)
    assert (found.end, found.order) == (91, list(range(91)))
    assert found.text == "".join(map(str, range(90))) + "9"


@given(st.lists(st.tuples(st.sampled_from(["start", "rewind", "add"]), st.integers(-1, 9))))
def test_blocks_stay_in_order_whatever_starts_and_is_discarded(
    steps: list[tuple[str, int]],
) -> None:
    found = Blocks()
    for step, index in steps:
        if step == "start":
            found.start(index, Block("text", "x"))
        elif step == "rewind":
            found.rewind(index, 1)
        else:
            found.add_text(index, {"type": "text_delta", "text": "y"})
        assert found.order == sorted(found)
    found.clear()
    assert (found.order, found.end) == ([], 0)
