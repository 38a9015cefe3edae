"""JSON as the outside world writes it: the one parser for everything that was paid for.

The API, the gateways in front of it and other programs write what strict parsers reject: half a
surrogate pair, ``NaN``, integers of more than 64 bits. `loads` accepts all of it, so that an answer
that was paid for is never lost to its spelling, and `dumps` writes everything that `loads` returns.

Half a surrogate pair is not a character, and most programs cannot store or print it. `loads`
replaces it with U+FFFD, the replacement character; two halves that follow each other are one
character. Where bytes are passed on without parsing them, they stay as they were received.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final

import orjson
from pydantic_core import from_json

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_HALF: Final = re.compile("[\ud800-\udfff]")
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
#: An escaped surrogate pair, half of one, or any other escape.
_ESCAPE: Final = re.compile(r"\\u[dD][89abAB].{2}\\u[dD][c-fC-F].{2}|\\u[dD][89a-fA-F].{2}|\\.")


def loads(raw: bytes | str) -> Any:
    """Parse JSON leniently. Raises `ValueError` for what is not JSON or is nested too deeply.

    Integers keep all their digits. For example::

        >>> loads(b'{"tokens": 18446744073709551616, "text": "half \\\\ud83d"}')
        {'tokens': 18446744073709551616, 'text': 'half \ufffd'}
    """
    return _loads(raw, repair=_repaired)


def loads_unrepaired(raw: bytes | str) -> Any:
    """Parse like `loads`, but keep halves of surrogate pairs, so that they can be rejected."""
    return _loads(raw, repair=lambda value: value)


def loads_cut(text: str) -> Any:
    """Parse JSON whose end may be missing; an unfinished name or text is left out.

    Raises `ValueError` if not even its beginning is JSON. For example::

        >>> loads_cut('{"city": "Paris", "country": "Fr')
        {'city': 'Paris'}
    """
    try:
        return loads(text)
    except ValueError:
        # Its parser of unfinished JSON does not know halves of surrogate pairs.
        return from_json(_ESCAPE.sub(_whole_escape, text), allow_partial=True)


def dumps(value: Any) -> bytes:
    """Write JSON. Raises `TypeError` or `ValueError` for a value that `loads` cannot return.

    What the standard has no form for is written as Python's own parser reads it: ``NaN``,
    ``Infinity``, and half a surrogate pair as an escape.
    """
    try:
        written = orjson.dumps(value)
    except TypeError:  # a long integer, half a surrogate pair, deep nesting, or not JSON at all
        return _dumps_slowly(value)
    # orjson writes NaN and infinities as null.
    return _dumps_slowly(value) if b"null" in written else written


def whole_characters(text: str) -> str:
    """Return ``text`` with surrogate pairs joined and lone halves replaced with U+FFFD."""
    if text.isascii() or not _HALF.search(text):
        return text
    joined = _PAIR.sub(lambda pair: _joined(pair.group()), text)
    return _HALF.sub(_REPLACEMENT, joined)


def _loads(raw: bytes | str, repair: Callable[[Any], Any]) -> Any:
    try:
        return from_json(raw)
    except ValueError as error:
        if "recursion" in str(error):
            raise ValueError("it is nested too deeply") from None
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig", errors="replace")
        return repair(json.loads(text, strict=False))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {whole_characters(name): _repaired(item) for name, item in value.items()}
    return value


def _dumps_slowly(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole_escape(found: re.Match[str]) -> str:
    escape = found.group()
    return "\\ufffd" if len(escape) == 6 else escape


def _joined(pair: str) -> str:
    return pair.encode("utf-16", "surrogatepass").decode("utf-16")
