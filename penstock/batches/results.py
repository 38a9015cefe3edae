"""Result lines of a job: as the API gave them, with the custom_ids that the user gave; no events.

Stored lines carry the ids of the wire and all begin with the same 33 bytes, so the user's id is
put in without parsing. A job of a million lines never lies in memory: its shards are read one after
the other, and large ones, where they have to be sorted, by way of a temporary file.
"""

import heapq
import os
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Final, NamedTuple

import orjson

from penstock import events
from penstock.batches.shard import Shard, ShardState
from penstock.batches.wire import WIRE_ID
from penstock.errors import InvalidRequest, NotFound
from penstock.events import Event
from penstock.spool.chunks import ChunkMissing, ChunkStore, lines_of, unpack

#: The orders in which results can be had: as shards were collected, or as requests were submitted.
ORDERS: Final = ("completed", "submitted")

#: How every stored line begins, up to its custom_id. The last six characters of that are the
#: number of the request in its shard.
_OPEN: Final = b'{"custom_id":"'
_REST: Final = len(_OPEN) + WIRE_ID
_INDEX: Final = _REST - 6

#: Shards of so many chunks are sorted in memory (16 MB), larger ones by way of a file.
_IN_MEMORY: Final = 32


class _Ids(NamedTuple):
    """What a shard's requests are called, by their number in it."""

    positions: "array[int]"  #: in the job
    heads: list[bytes]  #: how their result lines begin


class Results:
    """The result lines of one job's shards."""

    def __init__(self, id: str, store: ChunkStore) -> None:
        self._id = id
        self._store = store

    def lines(self, shard: Shard, *, after: int = 0) -> Iterator[bytes]:
        """The lines of a collected shard as they are stored, behind the first ``after``.

        Raises `NotFound` where chunks have expired.
        """
        if after >= held(shard):
            return iter(())
        lines = self._instead(shard) if shard.uniform_result is not None else self._spliced(shard)
        return islice(lines, after, None)

    def submitted(self, shards: Iterable[Shard], *, after: int = 0) -> Iterator[bytes]:
        """The lines of all collected shards in the order of submission, behind the first ``after``.

        Shards overlap where requests with other beta headers, or what was tried again, lie between:
        those that do are open at the same time. Raises `NotFound` where chunks have expired.
        """
        return islice(self._merged(shards), after, None)

    def _merged(self, shards: Iterable[Shard]) -> Iterator[bytes]:
        collected = [shard for shard in shards if held(shard)]
        closed = deque(sorted(collected, key=lambda shard: shard.first))
        opened: list[tuple[int, int, bytes, Iterator[tuple[int, bytes]]]] = []
        while closed or opened:
            if closed and (not opened or closed[0].first <= opened[0][0]):
                shard = closed.popleft()
                source = self._by_position(shard)
                for position, line in islice(source, 1):
                    heapq.heappush(opened, (position, shard.number, line, source))
                continue
            _, number, line, source = opened[0]
            yield line
            following = next(source, None)
            if following is None:
                heapq.heappop(opened)
            else:
                heapq.heapreplace(opened, (following[0], number, following[1], source))

    def _by_position(self, shard: Shard) -> Iterator[tuple[int, bytes]]:
        """The lines of a shard with their positions in the job, in order."""
        ids = self._ids(shard)
        order = sorted(range(len(ids.heads)), key=ids.positions.__getitem__)
        if shard.uniform_result is not None:
            tail = _tail(shard)
            return ((ids.positions[index], ids.heads[index] + tail) for index in order)
        rests = self._from_memory if shard.result_chunks <= _IN_MEMORY else self._from_file
        return (
            (ids.positions[index], ids.heads[index] + rest) for index, rest in rests(shard, order)
        )

    def _from_memory(self, shard: Shard, order: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """What stands behind the custom_ids of a shard's lines, in this order; those that were
        tried again, in another shard, are left out."""
        rests = [b""] * shard.requests
        for chunk in self._chunks(shard.results, shard.result_chunks):
            for line in lines_of(chunk):
                rests[int(line[_INDEX:_REST])] = line[_REST:]
        for index in order:
            if rests[index]:
                yield index, rests[index]

    def _from_file(self, shard: Shard, order: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """The same for a shard that is too large to lie in memory."""
        with TemporaryFile() as file:
            starts, sizes = self._unpacked(shard, file)
            number = file.fileno()
            for index in order:
                if sizes[index]:
                    yield index, os.pread(number, sizes[index], starts[index])

    def _unpacked(self, shard: Shard, file: IO[bytes]) -> "tuple[array[int], array[int]]":
        """Write a shard's lines into a file: where each one's rest begins, and how long it is."""
        starts = array("Q", bytes(8 * shard.requests))
        sizes = array("Q", bytes(8 * shard.requests))
        at = 0
        for chunk in self._chunks(shard.results, shard.result_chunks):
            block = unpack(chunk)
            file.write(block)
            for line in block[:-1].split(b"\n"):
                index = int(line[_INDEX:_REST])
                starts[index] = at + _REST
                sizes[index] = len(line) - _REST
                at += len(line) + 1
        file.flush()
        return starts, sizes

    def _spliced(self, shard: Shard) -> Iterator[bytes]:
        heads = self._ids(shard).heads
        for chunk in self._chunks(shard.results, shard.result_chunks):
            for line in lines_of(chunk):
                yield heads[int(line[_INDEX:_REST])] + line[_REST:]

    def _instead(self, shard: Shard) -> Iterator[bytes]:
        tail = _tail(shard)
        for head in self._ids(shard).heads:
            yield head + tail

    def _ids(self, shard: Shard) -> _Ids:
        ids = _Ids(array("Q"), [])
        for chunk in self._chunks(f"ids-{shard.spool}", shard.id_chunks):
            for line in lines_of(chunk):
                position, _, custom_id = line.partition(b" ")
                ids.positions.append(int(position))
                ids.heads.append(_OPEN + custom_id)
        return ids

    def _chunks(self, name: str, count: int) -> Iterator[bytes]:
        try:
            yield from self._store.read(name, count)
        except ChunkMissing as error:
            raise NotFound(
                f"the results of {self._id} are not complete any more ({error}): "
                "they have expired, or somebody removed them"
            ) from error


def held(shard: Shard) -> int:
    """How many result lines there are of a shard."""
    if shard.state != ShardState.COLLECTED:
        return 0
    return shard.result_lines if shard.uniform_result is None else shard.requests


class Arrivals:
    """In which order shards were collected, by the job's events; pure.

    Their times will not do: they are read from the clocks of several machines, and whoever reads
    while the job runs must find the same order again later.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def take(self, event: Event) -> int | None:
        """The number of the shard that was collected with this event, if one was."""
        collected = (
            event.type == events.PROGRESS and event.data.get("state") == ShardState.COLLECTED
        )
        number = event.data.get("shard")
        if not collected or not isinstance(number, int) or number in self._seen:
            return None
        self._seen.add(number)
        return number

    def rest(self, shards: Collection[Shard]) -> list[Shard]:
        """The collected shards that no event told of: of an older version, or the log was lost."""
        missing = [
            s for s in shards if s.number not in self._seen and s.state == ShardState.COLLECTED
        ]
        return sorted(missing, key=lambda shard: (shard.collected_ms, shard.number))


class Place:
    """Where a reader goes on: so many lines were taken before; pure."""

    def __init__(self, after: int) -> None:
        if after < 0:
            raise InvalidRequest("must be a number of lines, 0 or above", field="after")
        self._after = after

    def skip(self, shard: Shard) -> int:
        """How many lines of the next shard were taken before."""
        skipped = min(self._after, held(shard))
        self._after -= skipped
        return skipped


def checked_order(order: str, *, wait: bool) -> str:
    """``order``, or `InvalidRequest`."""
    if order not in ORDERS:
        raise InvalidRequest("must be 'completed' or 'submitted'", field="order")
    if wait and order == "submitted":
        raise InvalidRequest(
            "results in the order of submission can be had when the job has ended, not before",
            field="order",
        )
    return order


def _tail(shard: Shard) -> bytes:
    """How every line of a shard goes on that has one and the same result for all."""
    return b'","result":' + orjson.dumps(shard.uniform_result) + b"}"
