"""Decompresses a body that is gzip although no header says so. Pure."""

import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Final

import httpx2

from penstock.spool.chunks import CHUNK_BYTES

_GZIP: Final = b"\x1f\x8b"


def plain(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Return the pieces of a body, decompressed if it begins like gzip; JSON never does.

    Raises `httpx2.DecodingError`, while it is iterated, for gzip that is damaged or not whole.
    """
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(_GZIP):
            break
    whole = chain([head], pieces)
    return _decompressed(whole) if head.startswith(_GZIP) else whole


def _decompressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    decoder = zlib.decompressobj(wbits=31)
    try:
        for piece in pieces:
            data = piece
            while data:
                yield decoder.decompress(data, CHUNK_BYTES)
                data = decoder.unconsumed_tail
    except zlib.error as error:
        raise httpx2.DecodingError(f"the gzip is damaged: {error}") from None
    if not decoder.eof:
        raise httpx2.DecodingError("the gzip is not whole")
