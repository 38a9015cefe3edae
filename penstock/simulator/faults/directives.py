"""``[[sim key=value flag]]`` in a user's text asks for a behaviour.

Workers pass a body through unchanged and must not know the simulator, so the prompt is the only
place where a request can ask for something.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from penstock.simulator.faults.fault import DIRECTIVE_KEYS, Fault, one_of
from penstock.simulator.faults.malformed_lines import MALFORMED_LINES

SERVER_TOOLS = ("web_search", "web_fetch", "code_execution")

_KEY_VALUE = r'[a-z0-9_]+(?:=(?:"(?:[^"\\]|\\.)*"|[^\s"\]]+))?'
_DIRECTIVE = re.compile(rf"\[\[sim((?:\s+{_KEY_VALUE})*)\s*\]\]", re.DOTALL)
_OPENING = re.compile(r"\[\[sim\s")
_ITEM = re.compile(r'([a-z0-9_]+)(?:=("(?:[^"\\]|\\.)*"|[^\s"\]]+))?', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the directives of a conversation say about its answer."""

    deltas: int = 0  #: number of text deltas
    rate: float | None = None  #: deltas a second; 0: as fast as possible
    chars: int = 0  #: characters of each text delta
    text: str | None = None  #: the text of the answer
    stop_reason: str | None = None  #: the stop reason of the answer
    overlap: int = 0  #: characters of a quoted beginning that are repeated
    stamp: bool = False  #: the text of each delta is the time of writing
    tool: bool = False  #: a tool is called
    thinking: bool = False  #: a thinking block comes first
    u2028: bool = False  #: the text contains U+2028 and U+0085
    expired: bool = False  #: the request of a batch ends as expired
    canceled: bool = False  #: the request of a batch ends as canceled
    errored: str | None = None  #: the request of a batch ends as an error of this type
    error_message: str | None = None  #: the message of ``errored``
    no_credit: bool = False  #: the request of a batch fails for lack of credit
    first: int = 0  #: times the request of a batch ends so, before it succeeds
    odd: bool = False  #: the text ends in characters that some readers split at
    citations: bool = False  #: a part of the text has citations
    redacted_thinking: bool = False  #: a redacted thinking block comes before the text
    compaction: bool = False  #: a compaction block comes first
    server_tool: str = ""  #: this server tool is used first
    tier: str = "standard"  #: the service tier that serves the request
    line: str | None = None  #: the result line of the request of a batch is malformed in this way


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
    "tier": one_of(("standard", "priority")),
    "line": one_of(MALFORMED_LINES),
    "server_tool": one_of(SERVER_TOOLS),
    **dict.fromkeys(("stamp", "tool", "thinking", "u2028", "odd"), bool),
    **dict.fromkeys(("citations", "redacted_thinking", "compaction"), bool),
    **dict.fromkeys(("expired", "canceled", "no_credit"), bool),
}


@dataclass(frozen=True)
class Directives:
    """Everything that the texts of one conversation ask for."""

    shape: Shape
    faults: tuple[tuple[str, Fault], ...]  #: each directive that holds a fault, with its own text


#: The result for most texts. Creating it each time took half the time of evaluating a batch's line.
_NONE = Directives(Shape(), ())


def parse(texts: Iterable[str]) -> Directives:
    """Read the directives in ``texts``; of two values for a key the later counts.

    Raises `ValueError`, naming the key, for a key that is unknown or has a bad value.
    """
    shape: dict[str, Any] = {}
    faults = []
    for text in texts:
        if "[[sim" not in text:
            continue
        if _OPENING.search(_DIRECTIVE.sub("", text)):
            raise ValueError("[[sim]]: not of the form [[sim key=value flag]]")
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
    """The text without its directives, so that they do not change the answer."""
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
            raise ValueError(f"[[sim]]: invalid value {key}={value!r}") from None
    return shape
