"""Repetitions in texts: the linear search finds what the simple definitions say."""

from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.streams import overlap
from tasks.streams.overlap import OverlapFilter, PassThrough, filter_after, is_distinctive
from tasks.streams.text_matching import common_prefix, is_periodic, longest_overlap

many = settings(max_examples=200, deadline=None)
units = st.text("ab", min_size=1, max_size=7)
#: One unit again and again, perhaps with a fault in it; or a few units in turn.
repeating = st.one_of(
    st.text("ab", max_size=40),
    st.builds(lambda unit, size: (unit * size)[:size], units, st.integers(1, 90)),
    st.builds(
        lambda unit, size, fault, end: unit * size + fault + unit * end,
        *(units, st.integers(0, 20), st.sampled_from(["", "a", "b", "c"]), st.integers(0, 20)),
    ),
    st.builds(lambda one, two, n: (one * n + two) * n, units, units, st.integers(1, 6)),
)


@many
@given(repeating)
def test_a_text_is_periodic_if_it_repeats_a_unit_of_at_most_half_its_length(text: str) -> None:
    by_definition = any(text.startswith(text[unit:]) for unit in range(1, len(text) // 2 + 1))
    assert is_periodic(text) is by_definition


@many
@given(repeating, repeating, st.integers(0, 70))
def test_the_common_prefix_ends_at_the_first_difference(one: str, other: str, same: int) -> None:
    one, other = "c" * same + one, "c" * same + other
    pairs = enumerate(zip(one, other, strict=False))
    by_definition = next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
    assert common_prefix(one, other) == by_definition


@st.composite
def overlapping(draw: st.DrawFn) -> tuple[str, str]:
    before = draw(repeating)
    place = draw(st.integers(0, len(before)))
    return before, before[place:] + draw(repeating)


@many
@example(("ab" * 9 + "a", "ba" * 9), 2)
@example(("aab" * 9, "aabaabb" + "aab" * 9), 4)
@example(("a" * 20 + "b", "a" * 8 + "b"), 3)
@example(("a" * 20, "a" * 8 + "b"), 3)
@given(st.one_of(overlapping(), st.tuples(repeating, repeating)), st.sampled_from([1, 2, 3, 16]))
def test_the_longest_overlap_is_the_longest_end_with_which_the_other_text_begins(
    texts: tuple[str, str], shortest: int
) -> None:
    before, after = texts
    lengths = range(min(len(before), len(after)), shortest - 1, -1)
    by_definition = next((n for n in lengths if before.endswith(after[:n])), 0)
    assert longest_overlap(before, after, shortest) == by_definition


class CountedText(str):
    """A text that counts the characters which its methods may look at."""

    looked_at = 0

    @classmethod
    def note(cls, characters: int) -> None:
        CountedText.looked_at += characters

    def find(self, part: str, start: Any = 0, end: Any = None) -> int:
        place = super().find(part, start, len(self) if end is None else end)
        self.note(len(part) + (len(self) if place < 0 else place) - max(start, 0))
        return place

    def startswith(self, part: Any, start: Any = 0, end: Any = None) -> bool:
        self.note(len(part))
        return super().startswith(part, start, len(self) if end is None else end)

    def __getitem__(self, place: Any) -> "CountedText":
        part = CountedText(super().__getitem__(place))
        self.note(len(part))
        return part

    def __add__(self, other: str) -> "CountedText":
        self.note(len(self) + len(other))
        return CountedText(super().__add__(other))


SIZE: Final = 20_000
HOSTILE: Final = {
    "one character": "a" * SIZE,
    "one character, then another": "a" * SIZE + "b",
    "another character, then one": "b" + "a" * SIZE,
    "another character in the middle": "a" * (SIZE // 2) + "b" + "a" * (SIZE // 2),
    "longer and longer runs": "".join("a" * n + "b" for n in range(200)),
    "long units": ("a" * 99 + "b") * (SIZE // 100) + "c" + ("a" * 99 + "b") * 9,
    "distinct words": "".join(f"{n} " for n in range(SIZE // 5)),
}


@pytest.mark.parametrize("before", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("step", [1, 7, SIZE])
def test_the_work_of_an_overlap_grows_no_faster_than_the_text(before: str, step: int) -> None:
    """Also for an answer that starts over, character by character."""
    counted = CountedText(before)
    CountedText.looked_at = 0
    is_periodic(counted)
    for written in (before + "b" * 20, before[len(before) // 3 :] + "c", before[1:] + "b"):
        text_filter = OverlapFilter(counted)
        for at in range(0, len(written), step):
            text_filter.feed(CountedText(written[at : at + step]))
        text_filter.flush()
    # The quadratic search looked at 3,000 times as many for some of these.
    assert CountedText.looked_at < 60 * len(before)


def test_of_a_text_longer_than_any_answer_only_the_end_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overlap, "COMPARED_LIMIT", 100)
    words = " ".join(f"word{n}" for n in range(40))
    assert filter_after(words).feed(words[-50:] + " and more") == " and more"
    assert filter_after(words).feed(words[-150:] + " and more") == words[-150:] + " and more"
    assert type(filter_after("-" * 200)) is PassThrough
    assert is_distinctive(words)
