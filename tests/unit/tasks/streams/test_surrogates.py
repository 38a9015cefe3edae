"""WaitingHalves: characters that are cut in two, wherever the deltas end."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.streams.surrogates import WaitingHalves

HIGH, LOW = "\ud83d", "\ude00"
#: Texts in UTF-16 units: whole characters of one and of two units, and halves without the other.
surrogates = st.sampled_from([HIGH, LOW, HIGH + LOW, "\ud800", "\udbff", "\udc00", "\udfff"])
units = st.lists(st.sampled_from(["a", "é", "\ud7ff", "\ufffd"]) | surrogates, max_size=12)


def repaired(text: str) -> str:
    """What becomes of a whole text: pairs are characters, other halves are replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@example(["\ud800\udc00", "\udbff\udfff"], [1, 3])
@given(units, st.lists(st.integers(0, 24), max_size=6))
def test_any_text_cut_anywhere_is_the_repaired_text(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    halves = WaitingHalves()
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    shown = "".join(halves.join((0, "text_delta"), piece) for piece in pieces)
    shown += "".join(replacement for _, replacement in halves.give_up())
    assert shown == repaired(text)
    assert not halves


@pytest.mark.parametrize("other", [(1, "text_delta"), (0, "thinking_delta")])
def test_a_half_waits_only_for_deltas_of_its_block_and_type(other: tuple[int, str]) -> None:
    halves = WaitingHalves()
    assert halves.join((0, "text_delta"), "a" + HIGH) == "a"
    assert halves
    assert halves.join(other, LOW) == "\ufffd"
    assert halves.join((0, "text_delta"), LOW + "b") == HIGH_AND_LOW + "b"
    assert not halves


def test_a_half_is_given_up_with_its_block_or_with_all_blocks() -> None:
    halves = WaitingHalves()
    for index in range(3):
        halves.join((index, "text_delta"), HIGH)
    assert halves.give_up(1) == [((1, "text_delta"), "\ufffd")]
    assert [place for place, _ in halves.give_up()] == [(0, "text_delta"), (2, "text_delta")]
    assert halves.give_up() == []


HIGH_AND_LOW = "\N{GRINNING FACE}"
