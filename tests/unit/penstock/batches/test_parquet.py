"""Result lines in a Parquet file."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
import pytest

from penstock import json_text
from penstock.batches import parquet
from penstock.batches.parquet import COLUMNS, write_parquet
from penstock.errors import MissingDependency
from tests.collected import succeeded


def line(custom_id: str, result: dict[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": custom_id, "result": result})


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def test_every_type_of_result_line_is_a_row(tmp_path: Path) -> None:
    error = {"type": "error", "error": {"type": "api_error", "message": "busy\u2028"}}
    answer = succeeded("a")
    answer["message"]["usage"]["cache_read_input_tokens"] = 7
    answer["message"]["content"] += [
        {"type": "tool_use", "input": {}},
        {"type": "text", "text": "!"},
    ]
    results = [answer, {"type": "errored", "error": error}, {"type": "expired"}]
    path = tmp_path / "x.parquet"
    assert write_parquet((line(id, r) for id, r in zip("abc", results, strict=True)), path) == 3
    first, second, third = read(path)
    assert list(first) == list(COLUMNS)
    assert first == {
        "custom_id": "a",
        "type": "succeeded",
        "text": answer["message"]["content"][0]["text"] + "!",
        "stop_reason": "end_turn",
        "model": "claude-haiku-4-5",
        "input_tokens": 3,
        "output_tokens": 5,
        "cache_creation_input_tokens": None,
        "cache_read_input_tokens": 7,
        "error_type": None,
        "error_message": None,
        "result": orjson.dumps(answer).decode(),
    }
    assert (second["type"], second["text"]) == ("errored", None)
    assert (second["error_type"], second["error_message"]) == ("api_error", "busy\u2028")
    assert (third["type"], third["result"]) == ("expired", '{"type":"expired"}')


def test_rows_are_written_in_bounded_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", 4)
    path = tmp_path / "x.parquet"
    lines = [line(str(i), succeeded(str(i))) for i in range(10)]
    assert write_parquet(iter(lines), path) == 10
    file = pyarrow.parquet.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 2]
    monkeypatch.setattr(parquet, "_BYTES", 1)
    assert write_parquet(iter(lines), path) == 10
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 10
    assert [row["custom_id"] for row in read(path)] == [str(i) for i in range(10)]


def test_a_job_without_results_is_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    assert write_parquet(iter(()), path) == 0
    assert read(path) == []


def test_without_pyarrow_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"pip install 'penstock-celery\[parquet\]'"):
        write_parquet(iter(()), tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "column", "expected"),
    [
        ({"stop_reason": {"type": "x"}}, "stop_reason", '{"type":"x"}'),
        ({"model": ["m"]}, "model", '["m"]'),
        ({"content": None}, "text", ""),
        ({"content": {"text": "a"}}, "text", ""),
        ({"content": [None, {"text": None}, {"text": "a"}]}, "text", "a"),
        ({"content": [{"text": "half \ud83d"}]}, "text", "half \ufffd"),
        ({"usage": {"input_tokens": 2**64}}, "input_tokens", None),
        ({"usage": {"input_tokens": "7"}}, "input_tokens", None),
        ({"usage": {"input_tokens": float("nan")}}, "input_tokens", None),
        ({"usage": []}, "input_tokens", None),
    ],
)
def test_a_value_of_another_type_does_not_stop_a_parquet_file(
    tmp_path: Path, change: dict[str, Any], column: str, expected: Any
) -> None:
    answer = succeeded("a")
    answer["message"] |= change
    odd = json.dumps({"custom_id": "a", "result": answer}).encode()
    path = tmp_path / "x.parquet"
    assert write_parquet([odd, line("b", succeeded("b"))], path) == 2
    first, second = read(path)
    assert (first["custom_id"], first[column], second["custom_id"]) == ("a", expected, "b")
    assert json_text.loads(first["result"])["type"] == "succeeded"


@pytest.mark.parametrize(
    "rest",
    [b'{"type":"succeeded","message":{"content":[\xff', b"[" * 3_000, b"null}", b""],
)
def test_a_line_that_cannot_be_parsed_is_an_errored_row_with_the_line(
    tmp_path: Path, rest: bytes
) -> None:
    path = tmp_path / "x.parquet"
    odd = b'{"custom_id":"a","result":' + rest
    assert write_parquet([odd, line("b", {"type": "expired"})], path) == 2
    row = read(path)[0]
    assert (row["custom_id"], row["error_type"]) == ("a", "unreadable_result")
    result = orjson.loads(row["result"])
    kept = result["raw"].encode() if "raw" in result else base64.b64decode(result["raw_base64"])
    assert kept == odd
