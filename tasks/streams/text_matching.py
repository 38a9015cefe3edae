"""Finds where texts repeat themselves or each other, in time linear in their length. Pure.

Every function compares whole slices, which the interpreter does at the speed of memory: a loop over
the characters of a long answer would hold up all streams of the process. `str.find` is linear, too.
"""

from typing import Final

#: Characters that `common_prefix` compares first.
_FIRST_COMPARED: Final = 64


def is_periodic(text: str) -> bool:
    """Whether the text repeats one unit of at most half its length.

    >>> is_periodic("-=-=-=-"), is_periodic("-=-=-=x")
    (True, False)
    """
    # If any such unit exists, the second occurrence of the text's first half begins after the
    # shortest one: an earlier occurrence would itself be a unit. So one search is enough.
    half = text[: len(text) - len(text) // 2]
    period = text.find(half, 1)
    return period != -1 and text.startswith(text[period:])


def common_prefix(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    longest = min(len(one), len(other))
    equal, step = 0, _FIRST_COMPARED
    while equal < longest and one[equal : equal + step] == other[equal : equal + step]:
        equal, step = equal + step, 2 * step
    if equal >= longest:
        return longest
    while step > 1:  # the first difference is among the next `step` characters
        step = (step + 1) // 2
        if one[equal : equal + step] == other[equal : equal + step]:
            equal += step
    return min(equal, longest)


def longest_overlap(before: str, after: str, shortest: int) -> int:
    """Return the length of the longest end of ``before`` with which ``after`` begins.

    0 if it has fewer than ``shortest`` characters.

    >>> longest_overlap("The gate is open.", "is open. Take care.", 4)
    8
    """
    # The lengths are divided into ranges from `least` to less than twice that. An overlap in one
    # begins with the first `least` characters of `after`, and those occur a few times in it at
    # most, or at regular distances. So each range costs as much as its length.
    longest = min(len(before), len(after))
    least = shortest
    while 2 * least <= longest:
        least *= 2
    while shortest <= least <= longest:
        most = min(longest, 2 * least - 1)
        if found := _overlap_in_range(before[len(before) - most :], after[:most], least):
            return found
        least //= 2
    return 0


def _overlap_in_range(before: str, after: str, least: int) -> int:
    """Return the longest overlap of at least ``least`` characters, which is most of both texts."""
    begin = after[:least]
    place = before.find(begin)
    while place != -1:
        if after.startswith(before[place:]):
            return len(before) - place
        following = before.find(begin, place + 1)
        step = following - place
        if following != -1 and 2 * step <= least:
            # `begin` repeats a unit of `step` characters, and so does `before` from here on.
            periodic = step + common_prefix(before[place:], before[following:])
            if place + periodic == len(before):
                return _periodic_overlap(after, periodic, step, least)
            # Only where the repetition ends in both at once can they be equal to the end.
            aligned = periodic - step - common_prefix(after, after[step:])
            if aligned > 0 and aligned % step == 0 and after.startswith(before[place + aligned :]):
                return len(before) - place - aligned
            following = before.find(begin, place + periodic - least + 1)
        place = following
    return 0


def _periodic_overlap(after: str, length: int, step: int, least: int) -> int:
    """Return the longest overlap with a text that repeats a unit of ``step`` characters.

    Its last ``length`` characters do, and begin with the first ``least`` ones of ``after``.
    """
    repeated = step + common_prefix(after, after[step:])
    too_long = max(0, length - repeated)
    length -= -(-too_long // step) * step
    return length if length >= least else 0
