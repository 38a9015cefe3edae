"""A file of requests as people have it: JSONL, a JSON array, compressed, with a BOM or blank lines.

What can be read in only one way is read. Anything else is rejected with the line and one remedy.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, cast

from penstock import json_text
from penstock.batches.numbered import NumberedRequests
from penstock.cli.command_error import CommandError
from penstock.errors import InvalidRequest

_UTF_16: Final = "UTF-16: convert it with iconv -f UTF-16 -t UTF-8"
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"

#: First bytes of files that have to be converted → what they are, and how to convert them.
_FOREIGN: Final = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first, with unzstd",
    b"BZh": "compressed with bzip2: unpack it first, with bunzip2",
    b"\xfd7zXZ": "compressed with xz: unpack it first, with unxz",
    b"PAR1": "a Parquet file: write its rows as JSON, one request per line",
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
}

#: The start of a line of CSV: a name or a quoted name, and a separator.
_CSV: Final = re.compile(r'\s*("[^"]*"|[^\s{}\[\]",;:]+( [^{}\[\]",;:]+)*)\s*[,;\t]')


class RequestFile:
    """A file of requests that is open for reading."""

    def __init__(self, file: IO[bytes]) -> None:
        """Look at the first bytes of ``file``. Raises `CommandError` for a format to convert."""
        name = getattr(file, "name", "")
        self._name = name if isinstance(name, str) and name not in ("", "-") else "<stdin>"
        start = _first_bytes(file)
        for magic, words in _FOREIGN.items():
            if start.startswith(magic):
                raise CommandError(f"{self._name} is {words}")
        self.bytes = file
        if start.startswith(_GZIP):
            self.bytes = cast(IO[bytes], gzip.GzipFile(fileobj=file))
        self._is_array = False

    def requests(self, lines: Iterator[bytes]) -> NumberedRequests:
        """Parse ``lines``, all of `bytes`, as requests."""
        return NumberedRequests(self._numbered(lines))

    @contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Raise `CommandError` for a damaged file; number the requests of an array as such."""
        try:
            yield
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise CommandError(f"{self._name}: the gzip file is damaged or incomplete") from None
        except InvalidRequest as error:
            if not self._is_array:
                raise
            raise CommandError(re.sub(r"\bline (\d+)", r"request \1", str(error))) from error

    def _numbered(self, lines: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
        empty = True
        for number, raw in enumerate(lines, start=1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            if not line.strip():
                continue
            if empty and line.lstrip().startswith(b"["):
                self._is_array = True
                yield from enumerate(_array([line, *lines]), start=1)
                return
            yield number, _request(line, number, first=empty)
            empty = False
        if empty:
            raise CommandError(f"{self._name} is empty")


def _first_bytes(file: IO[bytes]) -> bytes:
    """Return the first bytes of a file without moving its position."""
    if isinstance(file, io.BufferedReader):
        return file.peek(8)[:8]
    start = file.read(8)
    file.seek(0)
    return start


def _array(lines: list[bytes]) -> list[Any]:
    """Parse a JSON array; it is held in memory as a whole."""
    try:
        requests = json_text.loads_unrepaired(b"".join(lines).decode())
    except UnicodeDecodeError:
        raise CommandError("the JSON array is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        problem = f"the JSON array is not valid: {error.msg} at {where}"
        raise CommandError(problem) from None
    except ValueError as error:
        raise CommandError(f"the JSON array cannot be read: {error}") from None
    assert isinstance(requests, list)
    return requests


def _request(line: bytes, number: int, *, first: bool) -> Any:
    """Parse a line. Raises `InvalidRequest`."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("not valid JSON: not UTF-8", line=number) from None
    try:
        return json_text.loads_unrepaired(text)
    except json.JSONDecodeError as error:
        problem = _problem(error, text, first=first)
    except ValueError as error:
        problem = f"cannot be read: {error}"
    raise InvalidRequest(problem, line=number)


def _problem(error: json.JSONDecodeError, text: str, *, first: bool) -> str:
    if first and "\0" in text:
        return f"is {_UTF_16}"
    if first and _CSV.match(text):
        return 'is CSV: write each row as {"custom_id": …, "params": …}, one request per line'
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        if not text.endswith("\n"):
            return "not valid JSON: the file ends inside this request; is it complete?"
        return "not valid JSON: incomplete; each request must be on a single line"
    return f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
