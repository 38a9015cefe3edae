"""Writes result lines into a Parquet file: the usual columns, and the whole result as JSON.

Needs the extra ``penstock-celery[parquet]``. Rows are written in groups, so that memory stays small
for a file of any size.
"""

from collections.abc import Iterable, Iterator
from os import PathLike
from typing import Any, Final

import orjson

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
    """Return the values of a result line in the order of `COLUMNS`; None if there is none."""
    fields = orjson.loads(line)
    result = fields["result"]
    message: dict[str, Any] = result.get("message") or {}
    error: dict[str, Any] = (result.get("error") or {}).get("error") or {}
    usage: dict[str, Any] = message.get("usage") or {}
    return (
        fields["custom_id"],
        result["type"],
        _text(message) if message else None,
        message.get("stop_reason"),
        message.get("model"),
        *(usage.get(name) for name in _TOKENS),
        error.get("type"),
        error.get("message"),
        _raw(line, fields),
    )


def _raw(line: bytes, fields: dict[str, Any]) -> bytes:
    """Return the bytes of the result object in the line."""
    before = LINE_HEAD + fields["custom_id"].encode() + RESULT
    return (
        line[len(before) : -len(LINE_TAIL)]
        if line.startswith(before)
        else orjson.dumps(fields["result"])
    )


def _text(message: dict[str, Any]) -> str:
    return "".join(block.get("text") or "" for block in message.get("content") or ())


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
