"""Writes result lines into a Parquet file: the usual columns, and the whole result as JSON.

Needs the extra ``penstock-celery[parquet]``. Rows are written in groups, so that memory stays small
for a file of any size.
"""

import re
from collections.abc import Iterable, Iterator
from os import PathLike
from typing import Any, Final

from penstock import json_text
from penstock.batches.unreadable import is_unreadable, parse_line
from penstock.batches.wire import LINE_HEAD, LINE_TAIL, RESULT
from penstock.errors import MissingDependency

#: Column → its type in Arrow. ``result`` is the API's whole result object, as JSON.
COLUMNS: Final = {
    "custom_id": "string",
    "type": "string",
    "text": "string",
    "stop_reason": "string",
    "model": "string",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "cache_creation_input_tokens": "int64",
    "cache_read_input_tokens": "int64",
    "error_type": "string",
    "error_message": "string",
    "result": "string",
}

#: Columns with long values, for which minimum and maximum in the file's statistics are useless.
_LONG: Final = ("text", "error_message", "result")

#: Maximum rows of a group, and bytes of lines at which it is full.
_ROWS: Final = 10_000
_BYTES: Final = 2_000_000

#: The escape of a half of a surrogate pair, which strict parsers reject unless it has the other.
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")

_TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)


def write_parquet(lines: Iterable[bytes], path: str | PathLike[str]) -> int:
    """Write result lines into a Parquet file; returns how many there were.

        write_parquet(client.messages.batches.result_lines(job.id), "results.parquet")

    The file is complete only when this returns. Raises `MissingDependency` or `OSError`.
    """
    arrow, parquet = _library()
    schema = arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    pool = arrow.system_memory_pool()  # the default pool does not give memory back
    options = {
        "memory_pool": pool,
        "compression": "zstd",
        "use_dictionary": ["type", "stop_reason", "model", "error_type"],
        "write_statistics": [name for name in COLUMNS if name not in _LONG],
    }
    written = 0
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for columns in _groups(lines):
            arrays = [
                arrow.array(values, kind, memory_pool=pool)
                for values, kind in zip(columns.values(), schema.types, strict=True)
            ]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            written += len(columns["type"])
    return written


def row_of(line: bytes) -> tuple[Any, ...]:
    """Return the values of a result line in the order of `COLUMNS`; None if there is none.

    A value of a type that its column does not have is given as JSON in a column of text, and left
    out of a column of numbers: ``result`` has it in any case.
    """
    fields = parse_line(line)
    result = fields["result"]
    message, error = _object(result.get("message")), _object(result.get("error"))
    error, usage = _object(error.get("error")), _object(message.get("usage"))
    return (
        _text(fields["custom_id"]),
        _text(result.get("type")),
        _answer(message) if message else None,
        _text(message.get("stop_reason")),
        _text(message.get("model")),
        *(_number(usage.get(name)) for name in _TOKENS),
        _text(error.get("type")),
        _text(error.get("message")),
        _raw(line, fields),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json_text.dumps(value).decode()


def _number(value: Any) -> int | None:
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _raw(line: bytes, fields: dict[str, Any]) -> bytes:
    """Return the result object of the line, as received unless that is not valid Unicode."""
    result = fields["result"]
    before = LINE_HEAD + _bytes(fields["custom_id"]) + RESULT
    if line.startswith(before) and not is_unreadable(result) and not _HALF.search(line):
        raw = line[len(before) : -len(LINE_TAIL)]
        if raw.isascii() or raw.decode(errors="replace").encode() == raw:
            return raw
    return json_text.dumps(result)


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else b""


def _answer(message: dict[str, Any]) -> str:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [_object(block).get("text") for block in blocks]
    return "".join(text for text in texts if isinstance(text, str))


def _groups(lines: Iterable[bytes]) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of each group of rows; the next group reuses their lists."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    size = 0
    for line in lines:
        for column, value in zip(columns.values(), row_of(line), strict=True):
            column.append(value)
        size += len(line)
        if len(columns["type"]) >= _ROWS or size >= _BYTES:
            yield columns
            size = 0
            for column in columns.values():
                column.clear()
    if size:
        yield columns


def _library() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingDependency("pyarrow", "parquet") from None
    return pyarrow, pyarrow.parquet
