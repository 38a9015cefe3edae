"""Joining a continued text to the text before it: nothing lost, nothing doubled."""

from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.streams.overlap import (
    MIN_OVERLAP,
    OverlapFilter,
    PassThrough,
    WhitespaceFilter,
    is_distinctive,
)

#: No two words are the same, as in prose; periodic text has tests of its own.
WORDS = st.lists(st.integers(0, 10**6), min_size=1, max_size=12, unique=True)
BETWEEN = st.sampled_from([" ", "\n", "  ", " — ", ", ", ". ", "日本 ", "\u2028"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    return "".join(f"w{word}{draw(BETWEEN)}" for word in draw(WORDS))


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, str]:
    text = draw(texts())
    place = draw(st.integers(0, len(text)))
    return text[:place], text[place:]


def pieces_of(text: str, sizes: Iterable[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


def joined(before: str, text_filter: PassThrough, pieces: list[str]) -> str:
    return before + "".join(text_filter.feed(piece) for piece in pieces) + text_filter.flush()


sizes = st.lists(st.integers(0, 9), max_size=30)


@given(cut_texts(), sizes)
def test_a_text_that_nothing_precedes_passes_unchanged(
    cut: tuple[str, str], lengths: list[int]
) -> None:
    text = "".join(cut)
    assert joined("", PassThrough(), pieces_of(text, lengths)) == text
    assert joined("", OverlapFilter(""), pieces_of(text, lengths)) == text


@given(cut_texts(), sizes, st.booleans())
def test_white_space_trimmed_from_a_prefill_appears_once(
    cut: tuple[str, str], lengths: list[int], again: bool
) -> None:
    before, rest = cut
    trimmed = before[len(before.rstrip()) :]
    written = trimmed + rest if again else rest
    assume(again or not trimmed or not rest.startswith(trimmed[0]))
    assert joined(before, WhitespaceFilter(trimmed), pieces_of(written, lengths)) == before + rest


@given(cut_texts(), sizes)
def test_an_exact_continuation_passes_unchanged(cut: tuple[str, str], lengths: list[int]) -> None:
    before, rest = cut
    assume(is_distinctive(before))
    assert joined(before, OverlapFilter(before), pieces_of(rest, lengths)) == before + rest


@given(cut_texts(), sizes, st.integers(MIN_OVERLAP, 200))
def test_a_repeated_ending_is_removed(
    cut: tuple[str, str], lengths: list[int], overlap: int
) -> None:
    before, rest = cut
    written = before[max(0, len(before) - overlap) :] + rest
    assert joined(before, OverlapFilter(before), pieces_of(written, lengths)) == before + rest


@given(cut_texts(), sizes)
def test_an_answer_that_starts_over_is_not_doubled(
    cut: tuple[str, str], lengths: list[int]
) -> None:
    before, rest = cut
    assert joined(before, OverlapFilter(before), pieces_of(before + rest, lengths)) == before + rest


@pytest.mark.parametrize(
    "unit", ["-", "=", " ", "- ", "|--", "0, ", "x = 1;\n", "ha", "\t", "日本"]
)
def test_periodic_text_is_not_mistaken_for_a_repetition(unit: str) -> None:
    ruler = unit * 40
    for cut in range(MIN_OVERLAP, len(ruler) - MIN_OVERLAP, len(unit)):
        before, rest = f"A table:\n{ruler[:cut]}", f"{ruler[cut:]}\nand what follows."
        assert joined(before, OverlapFilter(before), [rest]) == before + rest


@pytest.mark.parametrize(
    ("before", "distinctive"),
    [
        ("", False),
        ("Ha", False),
        ("The old sluice", False),
        ("The old sluice" + " " * 9, False),
        ("The old sluice was", True),
        ("-" * 40, False),
        ("ha" * 20, False),
        ("日本の水門は川の水を止めるための門", True),
    ],
)
def test_a_text_is_distinctive_if_it_is_long_and_not_periodic(
    before: str, distinctive: bool
) -> None:
    assert is_distinctive(before) is distinctive


@given(cut_texts(), sizes)
def test_text_is_held_back_only_while_it_can_be_a_repetition(
    cut: tuple[str, str], lengths: list[int]
) -> None:
    before, rest = cut
    text_filter, shown, fed = OverlapFilter(before), "", ""
    for piece in pieces_of(rest, lengths):
        fed += piece
        shown += text_filter.feed(piece)
        if fed and fed not in before:
            assert len(shown) >= len(fed) - len(before)
            assert text_filter.flush() == ""


@given(st.text("ab", min_size=MIN_OVERLAP, max_size=60))
def test_a_text_is_distinctive_unless_it_is_periodic(text: str) -> None:
    periods = range(1, len(text) // 2 + 1)
    assert is_distinctive(text) is not any(text.startswith(text[period:]) for period in periods)


def test_long_texts_are_joined_at_once() -> None:
    before = " ".join(f"w{number}" for number in range(100_000))
    text_filter = OverlapFilter(before)
    assert text_filter.feed(before[:-20]) == ""
    assert text_filter.feed("something else") == before[:-20] + "something else"
    assert not is_distinctive("-" * 500_000)


def test_a_filter_is_decided_once_it_holds_nothing_back() -> None:
    assert PassThrough().decided
    white = WhitespaceFilter(" \n")
    assert not white.decided
    white.feed(" ")
    assert not white.decided
    white.feed("\n")
    assert white.decided
    overlap = OverlapFilter("The gate of the dam is open.")
    assert not overlap.decided
    assert overlap.feed("The gate") == ""
    assert not overlap.decided
    overlap.flush()
    assert overlap.decided
