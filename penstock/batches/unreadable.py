"""Result lines that cannot be read: each becomes an errored line that keeps what arrived; pure.

Workers put such a line in place of one that is not a result. The lines of most results are stored
without being parsed as a whole, so a reader that parses them may still find one that is not JSON.
"""

import base64
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from penstock import json_text
from penstock.batches.wire import LINE_HEAD, LINE_TAIL, RESULT

#: The types of results; one that this version does not know counts as errored.
TYPES: Final = ("succeeded", "errored", "canceled", "expired")

#: The error type of a request whose result line cannot be read.
UNREADABLE: Final = "unreadable_result"
#: The error type of a request that has no line in the results of its batch.
MISSING: Final = "result_missing"


def errored(type: str, message: str) -> dict[str, Any]:
    """Return the result of a request with an error of Penstock's own, in the API's form."""
    return {
        "type": "errored",
        "error": {"type": "error", "error": {"type": type, "message": message}},
    }


def unreadable_result(raw: bytes, problem: str) -> dict[str, Any]:
    """Return the errored result for a line that cannot be read.

    It keeps the bytes of the line: as text in ``raw``, or in ``raw_base64`` if they are not UTF-8.
    """
    result = errored(UNREADABLE, f"the result line cannot be read: {problem}")
    try:
        return result | {"raw": raw.decode()}
    except UnicodeDecodeError:
        return result | {"raw_base64": base64.b64encode(raw).decode()}


def is_unreadable(result: dict[str, Any]) -> bool:
    """Whether this is an `unreadable_result`."""
    return "raw" in result or "raw_base64" in result


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse a stored result line, with the custom_id of the producer or of the wire.

    Characters that are not UTF-8 and halves of surrogate pairs become U+FFFD, and integers keep
    all their digits. A line that is not JSON, or is nested too deeply, is returned as an errored
    one: see `unreadable_result`.
    """
    try:
        fields = json_text.loads(line)
        if isinstance(fields, dict) and isinstance(fields.get("result"), dict):
            return fields
        problem = "it has no result"
    except ValueError as error:
        problem = str(error)
    head = line.partition(RESULT)[0].removeprefix(LINE_HEAD)
    return {"custom_id": head.decode(errors="replace"), "result": unreadable_result(line, problem)}


def lines_of_types(lines: Iterable[bytes], types: Collection[str]) -> Iterator[bytes]:
    """Yield the result lines whose type is one of ``types``."""
    for line in lines:
        found = parse_line(line)["result"].get("type")
        if (found if found in TYPES else "errored") in types:
            yield line


def result_line(head: bytes, result: dict[str, Any]) -> bytes:
    """Return the line of a result; ``head``: its beginning, up to the custom_id."""
    return head + RESULT + json_text.dumps(result) + LINE_TAIL
