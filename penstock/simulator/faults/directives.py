"""`[[sim key=value flag]]` in a user's text: how a request asks for a behaviour.

Workers pass a body through unchanged and must not know the simulator, so the
body's own prose is the only place left to say it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from penstock.simulator.faults.fault import DIRECTIVE_KEYS, Fault

_KEY_VALUE = r'[a-z0-9_]+(?:=(?:"(?:[^"\\]|\\.)*"|[^\s"\]]+))?'
_DIRECTIVE = re.compile(rf"\[\[sim((?:\s+{_KEY_VALUE})*)\s*\]\]", re.DOTALL)
_OPENING = re.compile(r"\[\[sim\s")
_ITEM = re.compile(r'([a-z0-9_]+)(?:=("(?:[^"\\]|\\.)*"|[^\s"\]]+))?', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the directives of a conversation say about its answer."""

    deltas: int = 0
    rate: float | None = None
    chars: int = 0
    text: str | None = None
    stop_reason: str | None = None
    overlap: int = 0
    stamp: bool = False
    tool: bool = False
    thinking: bool = False
    u2028: bool = False
    expired: bool = False
    canceled: bool = False
    errored: str | None = None
    error_message: str | None = None
    no_credit: bool = False
    first: int = 0
    odd: bool = False


_SHAPE_PARSERS: dict[str, Callable[[str], Any]] = {
    "deltas": int,
    "rate": float,
    "chars": int,
    "text": str,
    "stop_reason": str,
    "overlap": int,
    "errored": str,
    "error_message": str,
    "first": int,
    **dict.fromkeys(("stamp", "tool", "thinking", "u2028", "odd"), bool),
    **dict.fromkeys(("expired", "canceled", "no_credit"), bool),
}


@dataclass(frozen=True)
class Directives:
    """Everything asked for in the texts of one conversation."""

    shape: Shape
    faults: tuple[tuple[str, Fault], ...]
    """Each directive that holds a fault, with its own text."""


_NONE = Directives(Shape(), ())
"""Most texts; making it anew was half the time of judging a batch's line."""


def parse(texts: Iterable[str]) -> Directives:
    """Read the directives in `texts`; of two that set the same key the later one counts.

    Raises ValueError, naming the key, for one that is unknown or has a bad value.
    """
    shape: dict[str, Any] = {}
    faults = []
    for text in texts:
        if "[[sim" not in text:
            continue
        if _OPENING.search(_DIRECTIVE.sub("", text)):
            raise ValueError("[[sim]]: a directive is written [[sim key=value flag]]")
        for found in _DIRECTIVE.finditer(text):
            items = dict(_items(found[1]))
            shape.update(_shape(items))
            asked = {key: value for key, value in items.items() if key in DIRECTIVE_KEYS}
            if asked:
                faults.append((found[0], Fault.parse(asked)))
    if not shape and not faults:
        return _NONE
    return Directives(replace(Shape(), **shape), tuple(faults))


def strip(text: str) -> str:
    """Return a text without its directives, so that they do not change the answer."""
    return _DIRECTIVE.sub("", text).strip() if "[[sim" in text else text.strip()


def _items(inner: str) -> Iterable[tuple[str, str]]:
    for key, value in _ITEM.findall(inner):
        if key not in _SHAPE_PARSERS and key not in DIRECTIVE_KEYS:
            raise ValueError(f"[[sim]]: unknown key {key!r}")
        quoted = value.startswith('"')
        yield key, json.loads(value, strict=False) if quoted else value


def _shape(items: dict[str, str]) -> dict[str, Any]:
    shape = {}
    for key, value in items.items():
        if key not in _SHAPE_PARSERS:
            continue
        parser = _SHAPE_PARSERS[key]
        try:
            shape[key] = True if parser is bool else parser(value)
        except ValueError:
            raise ValueError(f"[[sim]]: {key}={value!r} is not understood") from None
    return shape
