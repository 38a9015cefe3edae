"""Joins characters whose two halves arrive in different deltas. Pure.

JSON can write one character as two halves (a surrogate pair), and a delta can end between them. A
half is no character: it cannot be stored or printed, and strict parsers reject it. So the first
half waits for the delta with the second. If that never comes, it is replaced with U+FFFD.
"""

from typing import Final

from penstock.json_text import whole_characters

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"

#: A block and the type of its deltas.
Place = tuple[int, str]


class WaitingHalves:
    """The first halves that wait, each at the end of the deltas of one type of a block."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, str]] = {}  # index of the block → type of delta → half

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def join(self, place: Place, piece: str) -> str:
        """Return the whole characters of a piece and of what waits at its place."""
        index, kind = place
        waiting = self._blocks.pop(index, {})
        joined = waiting.pop(kind, "") + piece
        if joined and "\ud800" <= joined[-1] <= "\udbff":
            waiting[kind], joined = joined[-1], joined[:-1]
        if waiting:
            self._blocks[index] = waiting
        return whole_characters(joined)

    def give_up(self, index: int | None = None) -> list[tuple[Place, str]]:
        """Return replacements for the halves that wait in block ``index``, or in any block."""
        indexes = list(self._blocks) if index is None else [index]
        return [
            ((each, kind), _REPLACEMENT) for each in indexes for kind in self._blocks.pop(each, {})
        ]
