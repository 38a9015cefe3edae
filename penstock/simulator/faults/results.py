"""Faults of a download of results: lines lost, duplicated or made up."""

from collections.abc import Iterable, Iterator

import orjson

from penstock.simulator.faults.fault import Fault

#: The custom_id of a line that does not belong to the batch.
FOREIGN_ID = "foreign"


def corrupt(lines: Iterable[bytes], total: int, fault: Fault) -> Iterator[bytes]:
    """Yield the lines of the results with a fault's effects applied."""
    end = _index(fault.results_end, total)
    skipped = _index(fault.results_skip, total)
    doubled = _index(fault.results_double, total)
    foreign = _index(fault.results_foreign, total)
    blank = _index(fault.results_blank, total)
    newline = b"\r\n" if fault.crlf else b"\n"
    duplicates: list[bytes] = []
    for place, line in enumerate(lines):
        if place == end:
            return
        # JSON escapes a line feed, so this is the only one.
        data = line.replace(b"\n", newline)
        if place == blank:
            yield newline
        if place == foreign:
            yield _foreign(line).replace(b"\n", newline)
        if place == doubled:
            duplicates.append(data)
        if place != skipped:
            yield data
    # At the end, so that a reader cannot find it by comparing with the previous line alone.
    yield from duplicates


def _index(value: int | None, total: int) -> int | None:
    """The index of a line; a negative one counts from the end."""
    return value + total if value is not None and value < 0 else value


def _foreign(line: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(line), "custom_id": FOREIGN_ID}) + b"\n"


def gather(lines: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the lines in chunks of at least ``size`` bytes, each of whole lines."""
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= size:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def chop(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the same bytes in chunks of exactly ``size``, except for the last one."""
    rest = b""
    for piece in pieces:
        rest += piece
        whole = len(rest) - len(rest) % size
        yield from (rest[start : start + size] for start in range(0, whole, size))
        rest = rest[whole:]
    if rest:
        yield rest
