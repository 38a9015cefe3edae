"""Blocks: starts, pieces and rewinds, as workers and readers both apply them."""

import pytest

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
