"""Decompresses gzip in bounded pieces, whether or not a header says that a body is gzip. Pure.

A few kilobytes of gzip can hold many megabytes, so no call decompresses more than one piece.
"""

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

import httpx2

from penstock.spool.chunks import CHUNK_BYTES

GZIP: Final = b"\x1f\x8b"  #: how gzip begins


class Gunzip:
    """Decompresses gzip that may be cut anywhere and may have several members."""

    def __init__(self, piece_bytes: int) -> None:
        """``piece_bytes``: maximum bytes of one piece."""
        self._piece_bytes = piece_bytes
        self._member = zlib.decompressobj(wbits=31)
        self._begins_later = False  # a further member, of which nothing is decompressed
        self._over = False  # what follows is not gzip

    @property
    def is_whole(self) -> bool:
        """Whether the last member is complete."""
        return self._over or self._member.eof

    def pieces(self, packed: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what these parts of the body hold, as soon as it is there.

        Raises `zlib.error` for damaged gzip. What follows the last member is ignored, as by gzip.
        """
        for data in packed:
            piece = b""
            while (data or len(piece) == self._piece_bytes) and not self._over:
                piece = self._decompressed(data)
                if piece:
                    yield piece
                member = self._member
                data = member.unused_data if member.eof else member.unconsumed_tail

    def _decompressed(self, data: bytes) -> bytes:
        if self._member.eof:
            if not data:
                return b""
            self._member, self._begins_later = zlib.decompressobj(wbits=31), True
        try:
            piece = self._member.decompress(data, self._piece_bytes)
        except zlib.error:
            if not self._begins_later:
                raise
            self._over = True
            return b""
        self._begins_later = self._begins_later and not piece
        return piece


def plain(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Return the pieces of a body, decompressed if it begins like gzip; JSON never does.

    Raises `httpx2.DecodingError`, while it is iterated, for gzip that is damaged or not whole.
    """
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(GZIP):
            break
    whole = chain([head], pieces)
    return _decompressed(whole) if head.startswith(GZIP) else whole


def _decompressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    gunzip = Gunzip(CHUNK_BYTES)
    try:
        yield from gunzip.pieces(pieces)
    except zlib.error as error:
        raise httpx2.DecodingError(f"the gzip is damaged: {error}") from None
    if not gunzip.is_whole:
        raise httpx2.DecodingError("the gzip is not whole")
