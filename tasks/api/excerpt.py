"""The first characters of what arrived, for error messages. Pure."""

from typing import Any, Final

from penstock import json_text
from penstock.access.redaction import redacted_beginning

#: Maximum characters of an excerpt.
EXCERPT_LIMIT: Final = 100
#: Maximum characters of a type or message of an error that is recorded: anything can answer a call.
ERROR_LIMIT: Final = 2_000
#: Characters in which secrets are looked for: one that begins in an excerpt must be whole in them.
_QUOTED_LIMIT: Final = 16_000


def excerpt(raw: bytes | str) -> str:
    r"""Return the beginning of a text in one printable line.

    >>> excerpt(b"<html>\n  <title>Bad gateway\x00</title>")
    '<html> <title>Bad gateway </title>'
    """
    begin = raw[:_QUOTED_LIMIT]
    decoded = begin.decode(errors="replace") if isinstance(begin, bytes) else begin
    text = redacted_beginning(decoded, 8 * EXCERPT_LIMIT)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= EXCERPT_LIMIT else line[:EXCERPT_LIMIT] + "…"


def excerpt_of_value(value: Any) -> str:
    """Return the beginning of a parsed value's JSON."""
    return excerpt(json_text.dumps(value))


def error_text(value: Any) -> str:
    """Return a field of an error as a text of bounded length: its JSON if it is no text.

    It has whole characters only, so that it can be recorded.
    """
    text = value if isinstance(value, str) else excerpt_of_value(value)
    return json_text.whole_characters(redacted_beginning(text, ERROR_LIMIT))
