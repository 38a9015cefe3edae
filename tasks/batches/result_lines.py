"""Splits results into lines, parses them, and puts them into one form. Pure.

Every stored line begins with the wire id of its request, so that readers find it without parsing
JSON. A line whose fields are in another order is rewritten.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from penstock.batches.wire import LINE_HEAD, RESULT
from penstock.spool.chunks import CHUNK_BYTES
from tasks.batches.billed_extras import FAST, compactions_in, extras_in, fast_in, special_in

#: Tokens that are billed, as the API names them in ``usage``.
TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)
#: The same in ``usage.cache_creation``: tokens written to the cache, by the cache's lifetime.
LIFETIMES: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the API ended one request."""

    kind: str  #: succeeded, errored, canceled, expired, or a type that this version does not know
    error_type: str = ""
    message: str = ""
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One line of the results."""

    custom_id: str
    outcome: Outcome
    stored: bytes  #: the line as it is stored
    model: str = ""
    tokens: dict[str, int] = field(default_factory=dict)


def blocks(pieces: Iterable[bytes], size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Split a download into blocks of whole lines, of about ``size`` bytes each.

    The last block may lack its newline. Only ``\\n`` ends a line: a JSON string may contain other
    characters that ``str.splitlines`` would split at.
    """
    held: list[bytes] = []
    length, wanted = 0, size
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < wanted:
            continue
        joined = b"".join(held)
        end = joined.rfind(b"\n") + 1
        if end:
            yield joined[:end]
        held = [joined[end:]]
        length = len(held[0])
        wanted = length + size if length > size else size
    if length:
        yield b"".join(held)


def read_line(line: bytes) -> ResultLine | None:
    """Parse a line. None: it is not a result, or was truncated."""
    try:
        fields = _parsed(line)
        custom_id, result = fields["custom_id"], fields["result"]
        if not isinstance(custom_id, str):
            return None
        outcome, model, tokens = _outcome(result), "", {}
        if outcome.kind == "succeeded":
            message = result["message"]
            model = str(message.get("model", ""))
            tokens = tokens_in([message.get("usage")])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return ResultLine(custom_id, outcome, _stored(line, custom_id, fields), model, tokens)


def tokens_in(usages: Iterable[Any]) -> dict[str, int]:
    """Add up the usage, by the API's names. Values that are not integers are ignored.

    Other things that are billed are counted as well: `tasks.batches.billed_extras`.
    """
    known = [usage for usage in usages if type(usage) is dict]
    special = special_in(known)
    if not special:
        return _tokens_in(known)
    tokens, fast = _tokens_in([*known, *compactions_in(special)]), fast_in(special)
    if fast:
        tokens |= {f"{FAST}{name}": n for name, n in _tokens_in(fast).items() if n}
    return tokens | extras_in(special)


def _tokens_in(known: list[Any]) -> dict[str, int]:
    tokens = {name: _sum(known, name) for name in TOKENS}
    kept = [each for usage in known if type(each := usage.get("cache_creation")) is dict]
    return tokens | {name: total for name in LIFETIMES if (total := _sum(kept, name))}


def _sum(usages: list[dict[str, Any]], name: str) -> int:
    return sum([count for usage in usages if type(count := usage.get(name)) is int])


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)  # accepts lone surrogates, which an answer may contain


def _outcome(result: Any) -> Outcome:
    kind = result["type"]
    if kind != "errored":
        return Outcome(str(kind))
    # The error is inside an envelope, whose own type is always "error".
    error = result["error"].get("error") or {}
    details = error.get("details") or {}
    return Outcome(
        str(kind),
        str(error.get("type") or ""),
        str(error.get("message") or ""),
        str(details.get("error_code") or ""),
    )


def _stored(line: bytes, custom_id: str, fields: dict[str, Any]) -> bytes:
    line = line.strip()
    head = LINE_HEAD + custom_id.encode("ascii", "replace") + RESULT
    if line.startswith(head):
        return line
    # Rewritten with the standard library, which keeps large integers as they are.
    fields = json.loads(line)
    ordered = {"custom_id": fields.pop("custom_id"), "result": fields.pop("result"), **fields}
    return json.dumps(ordered, separators=(",", ":")).encode()
