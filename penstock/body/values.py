"""Encodes the values of a body as JSON: each reaches the API unchanged, or is rejected by field.

orjson encodes an ordinary body, in a fraction of the time that a look at each value takes. But it
writes NaN as ``null``, and refuses long integers, files and the SDK's markers for arguments that
are not given. So a body with any of these, or with a ``null``, is first copied value by value.
"""

import base64
import io
import json
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel

from penstock.errors import InvalidRequest

#: Maximum levels of lists and objects in a body. The parsers of workers read 200.
MAX_NESTING: Final = 200

#: orjson refuses 255 levels, so inside this many lists it refuses a body beyond `MAX_NESTING`.
_LISTS_AROUND: Final = 254 - MAX_NESTING

_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

#: A null that is a value: written for None, or by orjson for NaN and infinities.
_NULL: Final = re.compile(rb"[:,\[]null[,}\]]")
_HALF: Final = re.compile("[\ud800-\udfff]")

#: Parts of the path to a value that is nested too deeply.
_SHOWN_PARTS: Final = 4

#: What to send in place of a Python object, by its type.
_ADVICE: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (
        (bytes, bytearray, memoryview, io.IOBase, os.PathLike),
        'files and bytes are sent only as "data" of an object whose "type" is "base64"',
    ),
    ((date, time), "send text, such as value.isoformat()"),
    (Decimal, "send a number with float(value), or text with str(value)"),
    ((Set, Iterator), "send a list"),
)

_Path = tuple[str, ...]


class _ListsAround(threading.local):
    """Lists around a body. Each thread makes them once: that takes longer than to encode a body."""

    def __init__(self) -> None:
        self.innermost: list[Any] = [None]
        self.outermost = self.innermost
        for _ in range(_LISTS_AROUND - 1):
            self.outermost = [self.outermost]


_around = _ListsAround()


def encode_values(body: Mapping[str, Any]) -> bytes:
    """Encode a body as JSON. Raises `InvalidRequest` naming a field that cannot be sent as it is.

    Fields whose value is one of the SDK's markers for "not given" are left out. A path, an open
    file or bytes as ``data`` of an object of type ``base64`` is read and encoded. For example::

        >>> encode_values({"seed": 18446744073709551616})
        b'{"seed":18446744073709551616}'
    """
    _around.innermost[0] = body
    try:
        encoded = orjson.dumps(_around.outermost, default=_model_as_object, option=_OPTIONS)
    except TypeError:
        return _encode_copy(body)
    finally:
        _around.innermost[0] = None
    # rfind takes half the time of `in`, which is a third of the whole for a body of 2 kB.
    if encoded.rfind(b"null") >= 0 and _NULL.search(encoded):
        return _encode_copy(body)
    return encoded[_LISTS_AROUND:-_LISTS_AROUND]


def is_omitted(value: object) -> bool:
    """Whether ``value`` is ``NOT_GIVEN`` or ``omit`` of the SDK, which need not be installed."""
    kind = type(value)
    return (
        kind.__name__ in ("NotGiven", "Omit") and kind.__module__.partition(".")[0] == "anthropic"
    )


def as_object(value: Any) -> Any:
    """Return a mapping or an object of the SDK as a dict; any other value unchanged."""
    if isinstance(value, BaseModel):
        return _model_as_object(value)
    return dict(value) if isinstance(value, Mapping) else value


def kind_of(value: object) -> str:
    """Name the type of a value in the words of JSON, with its article.

    >>> kind_of({}), kind_of(None), kind_of(1.5)
    ('an object', 'null', 'a number')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    for kind, words in (
        (str, "text"),
        ((int, float), "a number"),
        ((Mapping, BaseModel), "an object"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, kind):
            return words
    return type(value).__name__


def _encode_copy(body: Mapping[str, Any]) -> bytes:
    try:
        copied = _copied(body, ())
    except RecursionError:
        raise InvalidRequest("is nested too deeply") from None
    try:
        return orjson.dumps(copied)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(copied, ensure_ascii=False, separators=(",", ":")).encode()


def _copied(value: Any, path: _Path) -> Any:
    """Copy a value as plain JSON data. ``path``: where it is in the body."""
    if isinstance(value, Enum):
        value = value.value
    elif isinstance(value, UUID):
        value = str(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int | float):
        return _number(value, path)
    if isinstance(value, BaseModel | Mapping):
        return _object(_checked_object(value, path), path)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        _check_depth(path)
        return [_copied(item, (*path, str(index))) for index, item in enumerate(value)]
    raise _refusal(value, path)


def _checked_object(value: Any, path: _Path) -> Any:
    try:
        return as_object(value)
    except ValueError as error:  # such as bytes in a field of the SDK's object
        words = str(error).partition("\n")[0]
        raise InvalidRequest(f"cannot be written as JSON: {words}", field=".".join(path)) from error


def _text(value: str, path: _Path) -> str:
    if half := _HALF.search(value):
        raise InvalidRequest(
            f"has half a surrogate pair at character {half.start()}, which is not a character",
            field=".".join(path),
        )
    return str.__str__(value)


def _number(value: float, path: _Path) -> float:
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        raise InvalidRequest(f"{float(value)} is not a number in JSON", field=".".join(path))
    try:
        int.__repr__(value)
    except ValueError:
        raise InvalidRequest("the number has too many digits", field=".".join(path)) from None
    return int(value)


def _object(value: Mapping[Any, Any], path: _Path) -> dict[str, Any]:
    _check_depth(path)
    copied: dict[str, Any] = {}
    for name, item in value.items():
        if is_omitted(item):
            continue
        inside = (*path, _shown(name))
        if not isinstance(name, str):
            raise InvalidRequest(
                f"the name of a field must be text, not {kind_of(name)}", field=".".join(inside)
            )
        if name == "data" and value.get("type") == "base64" and _is_file(item):
            copied[name] = _base64(item, inside)
        else:
            copied[_text(name, inside)] = _copied(item, inside)
    return copied


def _check_depth(path: _Path) -> None:
    if len(path) >= MAX_NESTING:
        raise InvalidRequest(
            f"is nested more than {MAX_NESTING} levels deep", field=".".join(path[:_SHOWN_PARTS])
        )


def _is_file(value: object) -> bool:
    return isinstance(value, bytes | bytearray | memoryview | io.IOBase | os.PathLike)


def _base64(value: Any, path: _Path) -> str:
    """Read a file or take bytes, and encode them as the SDK does."""
    try:
        if isinstance(value, os.PathLike):
            value = Path(value).read_bytes()
        elif isinstance(value, io.IOBase):
            value = value.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"the file cannot be read: {reason}", field=".".join(path)) from error
    content = value.encode() if isinstance(value, str) else value
    return base64.b64encode(content).decode("ascii")


def _refusal(value: Any, path: _Path) -> InvalidRequest:
    advice = next((words for kind, words in _ADVICE if isinstance(value, kind)), "")
    problem = f"cannot be written as JSON: it is of the type {kind_of(value)}"
    return InvalidRequest(f"{problem}; {advice}" if advice else problem, field=".".join(path))


def _shown(name: object) -> str:
    """Return the name of a field as one printable part of a path."""
    text = str(name)[:80]
    return text if text.isprintable() else ascii(text)[1:-1]


def _model_as_object(value: Any) -> Any:
    """Return an object of the SDK (a pydantic model) as the SDK sends it."""
    if isinstance(value, BaseModel):
        excluded = getattr(value, "__api_exclude__", None)
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=excluded)
    raise TypeError  # as orjson does; the copy finds the field
