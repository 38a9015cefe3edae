"""Splits results into lines, parses them, and puts them into one form. Pure.

Every stored line begins with the wire id of its request, so that readers find it without parsing
JSON. A line whose fields are in another order is rewritten.

A line that is not a result, but names its request, is read as an errored one that keeps its bytes:
the request is paid for, and the other lines do not depend on it. What decides is only what the
workers need: the type, that a message is an object, and the type of an error. Everything else in a
result may be of any type.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from penstock import json_text
from penstock.batches.unreadable import UNREADABLE, result_line, unreadable_result
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

#: Maximum tokens of one kind that a request can have used. A count that is negative or higher is
#: ignored: in a sum it would make the record of the shard unreadable.
MAX_TOKENS: Final = 10**9

#: Maximum bytes of a line; those of the API have less than one megabyte.
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
#: Follows the first bytes of a longer line, which are kept. It makes sure that they are not JSON.
CUT: Final = b" (cut: the line is too long)"
_KEPT_BYTES: Final = 1024 * 1024

#: Bytes that are decoded at once to check that they are UTF-8.
_DECODED_BYTES: Final = 16 * 1024

#: Maximum characters of an error's type and message, and of a model, that go into a record.
_MAX_TYPE: Final = 100
_MAX_MESSAGE: Final = 2_000

#: The custom_id of a line that cannot be parsed. Inside a JSON string its quotes would be escaped.
_CUSTOM_ID: Final = re.compile(rb'"custom_id"\s*:\s*"([\w-]{1,64})"')


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


def blocks(
    pieces: Iterable[bytes],
    size: int = CHUNK_BYTES,
    *,
    begin: bytes = LINE_HEAD,
    limit: int = MAX_LINE_BYTES,
) -> Iterator[bytes]:
    """Split a download into blocks of whole lines, of about ``size`` bytes each.

    The last block may lack its newline. Only ``\\n`` ends a line: a JSON string may contain other
    characters that ``str.splitlines`` would split at.

    A line above ``limit`` bytes is split where its last result begins, with ``begin``. If that is
    its own beginning, its first bytes are kept with the mark `CUT`, and the rest is left out.
    """
    whole: list[bytes | memoryview] = []  # up to the last newline
    rest: list[bytes] = []  # the line that has no newline yet
    length = rest_length = 0  # of both, of the rest
    leave_out = False
    for received in pieces:
        piece = received
        if leave_out:
            _, newline, piece = piece.partition(b"\n")
            leave_out = not newline
        length += len(piece)
        end = piece.rfind(b"\n") + 1
        if end:
            whole += (*rest, memoryview(piece)[:end])
            rest, rest_length = [], 0
        rest.append(piece[end:])
        rest_length += len(piece) - end
        if length >= size and whole:
            yield b"".join(whole)
            whole, length = [], rest_length
        if rest_length > limit:
            line = b"".join(rest)
            end = line.rfind(begin)
            leave_out = end <= 0
            yield line[:_KEPT_BYTES] + CUT + b"\n" if leave_out else line[:end] + b"\n"
            rest = [] if leave_out else [line[end:]]
            length = rest_length = sum(map(len, rest))
    if length:
        yield b"".join((*whole, *rest))


def read_line(line: bytes) -> ResultLine | None:
    """Parse a line. One that is not a result is errored, with the error type `UNREADABLE`.

    None: the line does not name a request.
    """
    line = line.strip()
    try:
        fields = json_text.loads_unrepaired(line)
    except ValueError as error:
        return _unreadable(line, str(error))
    if not isinstance(fields, dict) or not isinstance(custom_id := fields.get("custom_id"), str):
        return None
    custom_id = json_text.whole_characters(custom_id)
    result: Any = fields.get("result")
    problem = _problem(result)
    if problem:
        return _errored(line, custom_id, problem)
    outcome, model, tokens = _outcome(result), "", {}
    if outcome.kind == "succeeded":
        model = _text(result["message"].get("model"), _MAX_TYPE)
        tokens = tokens_in([result["message"].get("usage")])
    return ResultLine(custom_id, outcome, _stored(line, custom_id, fields), model, tokens)


def is_utf8(text: bytes) -> bool:
    """Whether these bytes are UTF-8.

    They are decoded in pieces that fit into the processor's cache, which takes half the time.
    """
    if text.isascii():
        return True
    view, start, length = memoryview(text), 0, len(text)
    try:
        while start < length:
            end = start + _DECODED_BYTES
            start += codecs.utf_8_decode(view[start:end], "strict", end >= length)[1]
    except UnicodeDecodeError:
        return False
    return True


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
    counts = [count for usage in usages if type(count := usage.get(name)) is int]
    total = sum(counts)
    if (total > MAX_TOKENS and max(counts) > MAX_TOKENS) or min(counts, default=0) < 0:
        return sum([count for count in counts if 0 <= count <= MAX_TOKENS])
    return total


def _problem(result: Any) -> str:
    """Return why this is not a result; empty: it is one."""
    if not isinstance(result, dict):
        return "result is not an object"
    kind = result.get("type")
    if not isinstance(kind, str) or not kind:
        return "result.type is not a string"
    if kind == "succeeded" and not isinstance(result.get("message"), dict):
        return "result.message is not an object"
    if kind == "errored":
        # The error is inside an envelope, whose own type is always "error".
        envelope = result.get("error")
        error = envelope.get("error") if isinstance(envelope, dict) else None
        if not isinstance(error, dict):
            return "result.error.error is not an object"
        if not isinstance(error.get("type"), str):
            return "result.error.error.type is not a string"
    return ""


def _outcome(result: dict[str, Any]) -> Outcome:
    kind = _text(result["type"], _MAX_TYPE)
    if kind != "errored":
        return Outcome(kind)
    error = result["error"]["error"]
    details = error.get("details")
    return Outcome(
        kind,
        _text(error["type"], _MAX_TYPE),
        _text(error.get("message"), _MAX_MESSAGE),
        _text(details.get("error_code"), _MAX_TYPE) if isinstance(details, dict) else "",
    )


def _text(value: Any, length: int) -> str:
    return json_text.whole_characters(value[:length]) if isinstance(value, str) else ""


def _unreadable(line: bytes, problem: str) -> ResultLine | None:
    """Read a line that is not JSON. None: it does not name a request."""
    if line.endswith(CUT):
        problem = f"it is longer than {MAX_LINE_BYTES:,} bytes and was cut after {_KEPT_BYTES:,}"
    found = _CUSTOM_ID.search(line)
    return _errored(line, found[1].decode(), problem) if found else None


def _errored(line: bytes, custom_id: str, problem: str) -> ResultLine:
    result = unreadable_result(line, problem)
    message = result["error"]["error"]["message"]
    stored = result_line(_head(custom_id), result)
    return ResultLine(custom_id, Outcome("errored", UNREADABLE, message), stored)


def _head(custom_id: str) -> bytes:
    return LINE_HEAD + custom_id.encode("ascii", "replace")


def _stored(line: bytes, custom_id: str, fields: dict[str, Any]) -> bytes:
    """Return the line as it was received, unless it has another form or is not UTF-8."""
    if line.startswith(_head(custom_id) + RESULT) and is_utf8(line):
        return line
    ordered = {"custom_id": fields.pop("custom_id"), "result": fields.pop("result"), **fields}
    return json_text.dumps(ordered)
