"""Chunks: lines that are packed into them, and read from them unchanged."""

from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import RecordUnreadable
from penstock.spool.chunks import (
    CHUNK_BYTES,
    MAX_UNPACKED_BYTES,
    Packer,
    compressor,
    lines_of,
    pack,
    unpack,
)

#: What Python or a careless splitter takes for the end of a line.
AWKWARD = "\r \n \r\n \u2028 \u2029 \u0085 \x0b \x0c \x1c \x1d \x1e"
awkward = st.text(
    st.sampled_from(AWKWARD + 'ab日🚰"\\{}[]') | st.characters(exclude_categories=["Cs"])
)
values = st.dictionaries(awkward, awkward | st.integers(-5, 5) | st.none(), max_size=3)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values, max_size=12), st.integers(1, 200))
def test_lines_are_unpacked_as_they_were_packed(objects: list[dict[str, Any]], size: int) -> None:
    lines = [orjson.dumps(each) for each in objects]
    packer = Packer(size)
    packed = [packer.add(line) for line in lines] + [packer.flush()]
    assert [line for chunk in packed if chunk for line in lines_of(chunk)] == lines


def test_a_line_larger_than_a_chunk_ends_its_chunk() -> None:
    line = b"x" * (CHUNK_BYTES + 1)
    assert [lines_of(chunk) for chunk in pack([b"a", line, b"b"])] == [[b"a", line], [b"b"]]


def test_no_more_lines_are_read_than_a_chunk_needs() -> None:
    """So a job is never held in memory as a whole."""
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1023

    next(pack(endless()))
    assert read == CHUNK_BYTES // 1024


def test_without_lines_there_is_no_chunk() -> None:
    assert list(pack([])) == []


def test_a_block_of_lines_is_the_same_chunk_as_its_lines() -> None:
    assert unpack(compressor().compress(bytearray(b"a\nb\n"))) == unpack(next(pack([b"a", b"b"])))


@pytest.mark.parametrize("known", [True, False])
def test_a_chunk_that_becomes_gigabytes_is_refused(known: bool) -> None:
    size = MAX_UNPACKED_BYTES + 1
    packer = zstandard.ZstdCompressor(write_content_size=known)
    with pytest.raises(RecordUnreadable, match="a stored chunk"):
        unpack(packer.compress(bytes(size)))


@pytest.mark.parametrize("chunk", [b"", b"not a chunk", compressor().compress(b"abc\n")[:-2]])
def test_what_is_no_chunk_is_refused(chunk: bytes) -> None:
    with pytest.raises(RecordUnreadable, match="a stored chunk"):
        lines_of(chunk)
