"""The set of custom_ids that a job has used, in little memory; pure.

Up to 100,000 are kept as they are. Of a larger job's ids only a hash of 64 bits and the number of
the line are kept, 18 to 36 bytes instead of 150: 27 MB for a million. Two different ids with the
same hash would be taken for a duplicate. Among a million ids that happens to one job in 37 million
(n² / 2⁶⁵). Such a job is refused before anything is enqueued, and accepted when another process
submits it, since Python salts hashes by process.
"""

from array import array
from typing import Final

#: Maximum ids that are kept as they are: faster, and at most 20 MB.
_EXACT: Final = 100_000

#: Number of tables that share the hashes, so that only a small one grows at a time.
_TABLES: Final = 64

#: Places of a new table.
_INITIAL_PLACES: Final = 2_048


class CustomIds:
    """Remembers the line in which each custom_id was used."""

    def __init__(self) -> None:
        self._exact: dict[str, int] = {}
        self._hashed: _HashedIds | None = None

    def add(self, custom_id: str, line: int) -> int:
        """Add the id of ``line``, counted from 1.

        Returns 0, or the earlier line that used the id; the id keeps that line.
        """
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
        self._tables = [_table(_INITIAL_PLACES) for _ in range(_TABLES)]
        self._room = [_room(_INITIAL_PLACES)] * _TABLES

    def add(self, custom_id: str, line: int) -> int:
        code = hash(custom_id)
        index = code % _TABLES
        codes, lines = self._tables[index]
        # Open addressing: a code is stored at its own place or at the next free one.
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
    """Make a table: codes and their lines; line 0 marks a free place."""
    return array("q", bytes(8 * size)), array("I", bytes(4 * size))


def _room(size: int) -> int:
    """Return how many codes a table of this size holds before it grows."""
    return size * 2 // 3
