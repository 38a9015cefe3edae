"""Assigns each request of a job to a shard; pure.

The API's list shows of a batch neither a name nor its custom_ids, only its number of requests. So
the full shards of a job differ in size, and those of different jobs differ by chance: a batch whose
create call had no answer can then be distinguished from others by its size.
"""

from dataclasses import dataclass
from typing import Final

from penstock.api_limits import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS

#: Maximum number of sizes that full shards have. A small shard has fewer, so that no shard is more
#: than a twentieth below the maximum size.
MAX_SIZES: Final = 512

Betas = tuple[str, ...]


@dataclass(slots=True)
class PlannedShard:
    """A shard that requests are still assigned to."""

    number: int
    betas: Betas
    live: bool
    room: int  #: number of requests that still fit
    size: int  #: bytes of the create call's body so far
    requests: int = 0


class Planner:
    """Divides a job into shards, numbered in the order in which they are opened.

    A batch has one set of beta headers, so there is one open shard for each set. The first
    ``canary`` requests are assigned to shard 0, whose requests become live calls.
    """

    def __init__(
        self, *, requests: int, bytes: int, empty: int, offset: int = 0, canary: int = 0
    ) -> None:
        """``requests``, ``bytes``: maximum size of a shard. ``empty``: bytes of a body without
        requests. ``offset``: any number; it decides which sizes the full shards have."""
        self._requests = min(requests, MAX_BATCH_REQUESTS)
        self._bytes = min(bytes, MAX_BATCH_BYTES)
        self._empty = empty
        self._offset = offset
        self._canary = canary
        self._opened = 0
        self._open: dict[Betas, PlannedShard] = {}

    def place(self, size: int, betas: Betas) -> tuple[PlannedShard, PlannedShard | None]:
        """Return the shard of a request, and the shard that is full and closed for it, if any.

        ``size``: bytes that the request adds to a body, without the comma before it.
        """
        shard = self._open.get(betas)
        closed = None
        if shard is None or not shard.room or self._too_large(shard, size):
            closed, shard = shard, self._new(betas)
        shard.room -= 1
        shard.size += size + (1 if shard.requests else 0)
        shard.requests += 1
        return shard, closed

    def _too_large(self, shard: PlannedShard, size: int) -> bool:
        # A request larger than a shard gets a shard of its own. Live calls have no common body.
        return not shard.live and shard.requests > 0 and shard.size + 1 + size > self._bytes

    def _new(self, betas: Betas) -> PlannedShard:
        number = self._opened
        self._opened += 1
        live = number == 0 and self._canary > 0
        room = self._canary if live else self._size(number)
        shard = self._open[betas] = PlannedShard(number, betas, live, room, self._empty)
        return shard

    def _size(self, number: int) -> int:
        sizes = min(MAX_SIZES, max(self._requests // 20, 1))
        return self._requests - (self._offset + number) % sizes
