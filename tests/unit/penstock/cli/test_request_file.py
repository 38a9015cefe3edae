"""Files of requests as people have them: what is read, and what is rejected with which advice."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.command_error import CommandError
from penstock.cli.request_file import RequestFile
from penstock.errors import InvalidRequest

REQUESTS: list[dict[str, Any]] = [
    {"custom_id": "a", "params": {"text": "ü", "seed": 18446744073709551616}},
    {"custom_id": "b", "params": {"scale": 1.0, "list": [None, 1e3, 0.1]}},
]
LINES = [json.dumps(request) for request in REQUESTS]
JSONL = "\n".join(LINES).encode()

#: A line for each of the formats that are rejected.
CSV = "custom_id,prompt\na,Hello\n"


def numbered(content: bytes) -> list[tuple[int, Any]]:
    """Read a file; returns each request with its line."""
    file = RequestFile(io.BytesIO(content))
    with file.errors_explained():
        requests = file.requests(iter(file.bytes))
        return [(requests.line, request) for request in requests]


def read(content: bytes) -> list[Any]:
    return [request for _, request in numbered(content)]


def problem(content: bytes) -> str:
    with pytest.raises((CommandError, InvalidRequest)) as caught:
        read(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        JSONL,
        JSONL + b"\n",
        JSONL.replace(b"\n", b"\r\n") + b"\r\n",
        b"\xef\xbb\xbf" + JSONL,
        b"\n\n" + JSONL.replace(b"\n", b"\n \t\n\r\n") + b"\n\n",
        json.dumps(REQUESTS).encode(),
        b"\xef\xbb\xbf\n" + json.dumps(REQUESTS, indent=2).encode() + b"\n\n",
        gzip.compress(JSONL, mtime=0),
        gzip.compress(json.dumps(REQUESTS, indent=4).encode(), mtime=0),
        gzip.compress(LINES[0].encode() + b"\n", mtime=0)
        + gzip.compress(LINES[1].encode(), mtime=0),
    ],
    ids=[
        "JSONL",
        "newline at the end",
        "CRLF",
        "BOM",
        "blank lines",
        "array",
        "array on several lines",
        "gzip",
        "array in gzip",
        "two members of gzip",
    ],
)
def test_every_common_form_of_a_file_is_read(content: bytes) -> None:
    found = read(content)
    assert json.dumps(found) == json.dumps(REQUESTS)


def test_a_file_on_disk_is_read_without_moving_its_start(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl.gz"
    path.write_bytes(gzip.compress(JSONL))
    with path.open("rb") as opened:
        file = RequestFile(opened)
        assert list(file.requests(iter(file.bytes))) == REQUESTS


def test_a_request_is_numbered_by_its_line_and_one_of_an_array_by_its_place() -> None:
    content = f"\n{LINES[0]}\n\n\n{LINES[1]}\n".encode()
    assert [line for line, _ in numbered(content)] == [2, 5]
    assert [line for line, _ in numbered(json.dumps(REQUESTS, indent=2).encode())] == [1, 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "<stdin> is empty"),
        (b"\n \r\n", "<stdin> is empty"),
        (b"\xef\xbb\xbf", "<stdin> is empty"),
        (gzip.compress(b"", mtime=0), "<stdin> is empty"),
        (CSV.encode(), "line 1: is CSV: write each row as"),
        (b'"custom id";"prompt"\n"a";"b"\n', "line 1: is CSV"),
        (b"id\tprompt text\n1\tx\n", "line 1: is CSV"),
        (JSONL.decode().encode("utf-16"), "<stdin> is UTF-16: convert it with iconv"),
        (JSONL.decode().encode("utf-16-be"), "line 1: is UTF-16: convert it with iconv"),
        (b"PK\x03\x04rest", "a zip archive: unpack it first"),
        (b"\x28\xb5\x2f\xfdrest", "with unzstd"),
        (b"BZh9rest", "with bunzip2"),
        (b"\xfd7zXZ\x00rest", "with unxz"),
        (b"PAR1rest", "a Parquet file"),
        (gzip.compress(JSONL, mtime=0)[:-9], "the gzip file is damaged or incomplete"),
        (gzip.compress(JSONL, mtime=0)[:-8] + b"\0" * 8, "the gzip file is damaged or incomplete"),
        (JSONL[:-3], "line 2: not valid JSON: the file ends inside this request"),
        (JSONL[:-30], "line 2: not valid JSON: the file ends inside this request"),
        (json.dumps(REQUESTS[0], indent=2).encode(), "each request must be on a single line"),
        (json.dumps(REQUESTS)[:-1].encode(), "the JSON array is not valid"),
        (b"[\xff]", "the JSON array is not UTF-8"),
        (LINES[0].encode() + b"\n\xe9\n", "line 2: not valid JSON: not UTF-8"),
        (LINES[0].encode() + b" x\n", "line 1: not valid JSON: extra data at column"),
        (b"Why is the sky blue?\n", "line 1: not valid JSON: expecting value at column 1"),
        (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}\n", "line 1: cannot be read: it is nested"),
        (b"1" * 5000, "line 1: cannot be read"),
    ],
)
def test_any_other_file_is_rejected_with_one_remedy(content: bytes, words: str) -> None:
    assert words in problem(content)


def test_an_error_in_an_array_names_the_request_and_not_a_line() -> None:
    file = RequestFile(io.BytesIO(b"[{}]"))
    assert list(file.requests(iter(file.bytes))) == [{}]
    duplicate = InvalidRequest("'a' was already used in line 3", field="custom_id", line=7)
    with pytest.raises(CommandError) as caught, file.errors_explained():
        raise duplicate
    assert str(caught.value) == "request 7: custom_id: 'a' was already used in request 3"


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.floats() | st.text())))
def test_json_lines_are_read_as_the_values_that_were_written(values: list[dict[str, Any]]) -> None:
    """NaN, and halves of surrogate pairs, are read as well: they are rejected by field later."""
    content = "".join(f"{json.dumps(value)}\n" for value in values).encode()
    if values:
        assert json.dumps(read(content)) == json.dumps(values)
