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
        self._places: dict[Place, str] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def join(self, place: Place, piece: str) -> str:
        """Return the whole characters of a piece and of what waits at its place."""
        joined = self._places.pop(place, "") + piece
        if joined and "\ud800" <= joined[-1] <= "\udbff":
            self._places[place], joined = joined[-1], joined[:-1]
        return whole_characters(joined)

    def give_up(self, index: int | None = None) -> list[tuple[Place, str]]:
        """Return replacements for the halves that wait in block ``index``, or in any block."""
        places = [place for place in self._places if index is None or place[0] == index]
        for place in places:
            del self._places[place]
        return [(place, _REPLACEMENT) for place in places]
