"""Joining texts in which words repeat, where each overlap has many places to be mistaken for.

What to remove is written down here a second time, for a whole text at once. The filter has to come
to the same result whatever the pieces are in which the text arrives.
"""

from typing import Final

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tasks.streams.overlap import MIN_OVERLAP, OverlapFilter, is_distinctive
from tests.unit.tasks.streams.test_overlap import joined, pieces_of

WORDS: Final = ("the ", "gate ", "is ", "open ", "and ", "12 ", "日本 ", "\n")
SENTENCE: Final = "The gate of the dam is open. "

repeating = st.lists(st.sampled_from(WORDS), min_size=4, max_size=30).map("".join)
sizes = st.lists(st.integers(0, 12), max_size=30)
many = settings(max_examples=300, deadline=None)


def is_periodic(text: str) -> bool:
    return any(text.startswith(text[period:]) for period in range(1, len(text) // 2 + 1))


def new_part(before: str, written: str) -> str:
    """What readers do not have yet of a text that continues ``before``."""
    if written.startswith(before):
        return written[len(before) :]
    for length in range(len(before), MIN_OVERLAP - 1, -1):
        end = before[len(before) - length :]
        if written.startswith(end):
            return written if is_periodic(end) else written[length:]
    return written


@many
@example("xyz" + SENTENCE, SENTENCE[:MIN_OVERLAP], [])
@example(SENTENCE, SENTENCE[-MIN_OVERLAP:] + "New.", [3, 3, 3])
@example("Text " + "a" * 17 + "b", "a" * 16 + "b and what is new", [])
@example(SENTENCE, SENTENCE[-MIN_OVERLAP + 1 :] + "New.", [3, 3, 3])
@given(repeating, repeating, sizes)
def test_the_pieces_of_a_text_do_not_change_what_is_removed(
    before: str, written: str, lengths: list[int]
) -> None:
    whole = joined(before, OverlapFilter(before), pieces_of(written, lengths))
    assert whole == before + new_part(before, written)


@many
@given(repeating, st.integers(0, 60), repeating, sizes)
def test_an_overlap_of_repeated_words_is_removed_once(
    before: str, overlap: int, rest: str, lengths: list[int]
) -> None:
    written = before[max(0, len(before) - overlap) :] + rest
    whole = joined(before, OverlapFilter(before), pieces_of(written, lengths))
    assert whole == before + new_part(before, written)
    assert written.endswith(whole.removeprefix(before))


@given(repeating, st.integers(1, MIN_OVERLAP - 1), sizes)
def test_an_overlap_shorter_than_the_minimum_is_kept(
    before: str, overlap: int, lengths: list[int]
) -> None:
    """It may be a word that the text repeats, as in "and so on and so on"."""
    assume(len(before) > overlap)
    written = f"{before[-overlap:]}\x00 and what is new"
    assert joined(before, OverlapFilter(before), pieces_of(written, lengths)) == before + written


@pytest.mark.parametrize("overlap", [MIN_OVERLAP, MIN_OVERLAP + 1])
def test_an_overlap_of_the_minimum_length_is_removed(overlap: int) -> None:
    text_filter = OverlapFilter(SENTENCE)
    assert joined(SENTENCE, text_filter, [SENTENCE[-overlap:] + "New."]) == SENTENCE + "New."


def test_text_that_is_held_back_at_the_end_of_the_block_is_passed_on() -> None:
    text_filter = OverlapFilter(SENTENCE)
    assert text_filter.feed("The gate") == ""
    assert text_filter.flush() == "The gate"
    assert text_filter.flush() == ""


def test_text_that_occurs_only_at_the_end_of_the_text_before_is_passed_on_at_once() -> None:
    """It cannot become a longer repetition, and alone it is too short for one."""
    assert OverlapFilter(SENTENCE).feed("is open. ") == "is open. "
    assert OverlapFilter(SENTENCE).feed("is open.") == ""  # a space may follow


@given(repeating, repeating, sizes)
def test_a_flush_returns_everything_that_was_held_back_and_only_once(
    before: str, written: str, lengths: list[int]
) -> None:
    text_filter = OverlapFilter(before)
    shown = "".join(text_filter.feed(piece) for piece in pieces_of(written, lengths))
    assert shown + text_filter.flush() == new_part(before, written)
    assert text_filter.flush() == ""
    assert text_filter.feed("more") == "more"


@given(repeating)
def test_repeated_words_are_distinctive_unless_all_of_the_text_is_periodic(text: str) -> None:
    core = text.strip()
    assert is_distinctive(text) is (len(core) >= MIN_OVERLAP and not is_periodic(core))
