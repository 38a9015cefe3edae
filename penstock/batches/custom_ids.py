"""The custom_ids of a job that have been used, in little memory; pure.

The first ones are kept as they are. In a larger job only a hash of 64 bits and the number of its
line are kept of each, 18 to 36 bytes in place of 150: 27 MB for a million. Two different ids with
the same hash would look like one used twice. Among a million that happens to one job in 37 million
(n² / 2⁶⁵); such a job is refused, not harmed, and goes through when another process submits it,
whose hashes are others: Python salts them.
"""

from array import array
from typing import Final

#: So many ids are kept as they are, which is faster, in at most 20 MB.
_EXACT: Final = 100_000

#: The ids are divided among so many tables, so that only a small one grows at a time.
_TABLES: Final = 64

_SMALLEST: Final = 2_048


class CustomIds:
    """Remembers in which line each custom_id was used."""

    def __init__(self) -> None:
        self._exact: dict[str, int] = {}
        self._hashed: _HashedIds | None = None

    def add(self, custom_id: str, line: int) -> int:
        """Note that ``line`` (counted from 1) uses an id. Returns the line that used it before, 0
        if none did; nothing is noted then."""
        if self._hashed is not None:
            return self._hashed.add(custom_id, line)
        before = self._exact.setdefault(custom_id, line)
        if len(self._exact) > _EXACT:
            self._hashed = _HashedIds()
            for known, its_line in self._exact.items():
                self._hashed.add(known, its_line)
            self._exact.clear()
        return before if before != line else 0


class _HashedIds:
    def __init__(self) -> None:
        self._tables = [_table(_SMALLEST) for _ in range(_TABLES)]
        self._room = [_room(_SMALLEST)] * _TABLES

    def add(self, custom_id: str, line: int) -> int:
        code = hash(custom_id)
        index = code % _TABLES
        codes, lines = self._tables[index]
        # Open addressing: a code lies at its own place, or at the next free one behind it.
        mask = len(lines) - 1
        place = code // _TABLES & mask
        while before := lines[place]:
            if codes[place] == code:
                return before
            place = place + 1 & mask
        codes[place], lines[place] = code, line
        self._room[index] -= 1
        if not self._room[index]:
            self._grow(index)
        return 0

    def _grow(self, index: int) -> None:
        old_codes, old_lines = self._tables[index]
        size = 2 * len(old_lines)
        codes, lines = _table(size)
        mask = size - 1
        for code, line in zip(old_codes, old_lines, strict=True):
            if line:
                place = code // _TABLES & mask
                while lines[place]:
                    place = place + 1 & mask
                codes[place], lines[place] = code, line
        self._tables[index] = codes, lines
        self._room[index] = _room(size) - _room(size // 2)


def _table(size: int) -> tuple["array[int]", "array[int]"]:
    """Codes, and lines beside them; line 0 stands for a free place."""
    return array("q", bytes(8 * size)), array("I", bytes(4 * size))


def _room(size: int) -> int:
    """How many codes a table of this size takes before it grows."""
    return size * 2 // 3
