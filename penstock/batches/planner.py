"""Which shard each request of a job goes to; pure.

A batch at the API shows neither a name nor its custom_ids, only how many requests it has. So the
full shards of a job differ in size, and the jobs of a deployment among each other by chance: then a
batch whose create call went unanswered can be told from its neighbours in the API's list.
"""

from dataclasses import dataclass
from typing import Final

from penstock.api_limits import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS

#: Full shards have up to so many different sizes, as far as that costs no more than one request
#: in twenty.
SPREAD: Final = 512

Betas = tuple[str, ...]


@dataclass(slots=True)
class PlannedShard:
    """A shard that requests are still added to."""

    number: int
    betas: Betas
    live: bool
    room: int  #: requests that it still takes
    size: int  #: bytes of the create call's body so far
    requests: int = 0


class Planner:
    """Divides a job into shards, which are numbered in the order in which they are opened.

    A batch has one set of beta headers, so there is one open shard for each set. The first
    ``canary`` requests go to shard 0, whose requests are live calls.
    """

    def __init__(
        self, *, requests: int, bytes: int, empty: int, offset: int = 0, canary: int = 0
    ) -> None:
        """``requests``, ``bytes``: how large a shard may become. ``empty``: bytes of a body without
        requests. ``offset``: any number; it decides which sizes the full shards have."""
        self._requests = min(requests, MAX_BATCH_REQUESTS)
        self._bytes = min(bytes, MAX_BATCH_BYTES)
        self._empty = empty
        self._offset = offset
        self._canary = canary
        self._opened = 0
        self._open: dict[Betas, PlannedShard] = {}

    def place(self, size: int, betas: Betas) -> tuple[PlannedShard, PlannedShard | None]:
        """The shard for a request that adds ``size`` bytes to a body (the comma before it not
        counted), and the shard that is closed for it, if one is."""
        shard = self._open.get(betas)
        closed = None
        if shard is None or not shard.room or self._too_large(shard, size):
            closed, shard = shard, self._new(betas)
        shard.room -= 1
        shard.size += size + (1 if shard.requests else 0)
        shard.requests += 1
        return shard, closed

    def _too_large(self, shard: PlannedShard, size: int) -> bool:
        # One request that is larger than a shard has one to itself. Live calls have no body.
        return not shard.live and shard.requests > 0 and shard.size + 1 + size > self._bytes

    def _new(self, betas: Betas) -> PlannedShard:
        number = self._opened
        self._opened += 1
        live = number == 0 and self._canary > 0
        room = self._canary if live else self._size(number)
        shard = self._open[betas] = PlannedShard(number, betas, live, room, self._empty)
        return shard

    def _size(self, number: int) -> int:
        spread = min(SPREAD, max(self._requests // 20, 1))
        return self._requests - (self._offset + number) % spread
