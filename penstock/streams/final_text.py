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
    start = text.strip()
    if len(start) < MIN_CHARACTERS:
        return False
    return not any(start.startswith(start[unit:]) for unit in range(1, MAX_UNIT + 1))
