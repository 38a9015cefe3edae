"""Which visible text is final: no later attempt withdraws it. Pure.

Workers plan attempts by this rule, and readers that cannot take text back (a file, a pipe, a page
that appends) show only final text.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Self

#: A text with fewer characters can be withdrawn: a repetition of it could not be recognized.
MIN_CHARACTERS: Final = 16
#: So can a text that repeats one unit of at most this length, such as a ruler.
MAX_UNIT: Final = MIN_CHARACTERS // 2

#: Characters of a piece that are looked at together: nearly every text is final within the first.
_CHARACTERS_AT_ONCE: Final = 1_000


class TextFinal(StrEnum):
    """When the visible text of a request is final; the field ``text_final`` of its record."""

    AT_ONCE = "at_once"  #: always; an interrupted request fails
    AFTER_START = "after_start"  #: once its beginning is final, see `has_final_start`
    AT_END = "at_end"  #: with the last event; an interrupted answer begins again

    @classmethod
    def of(cls, value: str | None) -> Self:
        """Read the field. It is absent for `AFTER_START`; a newer program may write others."""
        return cls(value) if value in tuple(cls) else cls(cls.AFTER_START)


def text_final(body: Mapping[str, Any], on_interrupt: str) -> TextFinal:
    """Return when the text of a request is final.

    A structured answer must be one JSON document, which a second call cannot finish.
    """
    if on_interrupt == "fail":
        return TextFinal.AT_ONCE
    output = body.get("output_config")
    structured = isinstance(output, Mapping) and bool(output.get("format"))
    return TextFinal.AT_END if on_interrupt == "restart" or structured else TextFinal.AFTER_START


def has_final_start(text: str) -> bool:
    """Whether a text that begins like ``text`` is continued, never begun again.

    If it is true of a text, it is true of every longer text that begins with it.
    """
    start = TextStart()
    start.add(text)
    return start.is_final


class TextStart:
    """The beginning of a text that grows, for `has_final_start` of the whole of it.

    Each piece is looked at once, however long the text has become.
    """

    def __init__(self) -> None:
        self.is_final = False
        self._length = 0  # without the white space around it
        self._last = ""  # the last characters of that, at most `MAX_UNIT`
        self._blanks: list[str] = []  # white space, after which more text may follow
        self._units = list(range(1, MAX_UNIT + 1))  # lengths of a unit that all of it repeats

    def add(self, piece: str) -> None:
        """Add the next piece of the text."""
        for at in range(0, len(piece), _CHARACTERS_AT_ONCE):
            if self.is_final:
                return
            self._add(piece[at : at + _CHARACTERS_AT_ONCE])

    def _add(self, piece: str) -> None:
        if not self._length:
            piece = piece.lstrip()
        more = piece.rstrip()
        if more:
            self._extend("".join(self._blanks) + more)
            self._blanks = []
        if len(more) < len(piece):
            self._blanks.append(piece[len(more) :])

    def _extend(self, more: str) -> None:
        text, known = self._last + more, len(self._last)
        self._units = [
            unit
            for unit in self._units
            if text[max(known, unit) :] == text[max(known - unit, 0) : max(len(text) - unit, 0)]
        ]
        self._length += len(more)
        self._last = text[-MAX_UNIT:]
        self.is_final = self._length >= MIN_CHARACTERS and not self._units
