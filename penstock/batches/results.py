"""The result lines of a job: the API's lines, with the custom_ids of the producer.

Stored lines have wire ids, and all begin with the same number of bytes, so the producer's custom_id
replaces them without parsing. A job is never held in memory as a whole: its shards are read one
after the other, and a large shard that has to be sorted is sorted in a temporary file.
"""

import heapq
import os
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Final, NamedTuple

from penstock import events, json_text
from penstock.batches.shard import UNREADABLE_RECORD, Shard, ShardState
from penstock.batches.wire import ID_END, INDEX, LINE_HEAD, LINE_TAIL, RESULT
from penstock.errors import InvalidRequest, NotFound, RecordUnreadable
from penstock.events import Event
from penstock.spool.chunks import ChunkMissing, ChunkStore, lines_in, lines_of, unpack

#: Orders of result lines: in which shards were collected, or in which requests were submitted.
ORDERS: Final = ("completed", "submitted")

#: Maximum chunks of a shard that is sorted in memory (16 MB); a larger one is sorted in a file.
_MAX_CHUNKS_IN_MEMORY: Final = 32


class _ShardIds(NamedTuple):
    """The ids of a shard's requests, by their index in the shard."""

    positions: "array[int]"  #: position of each request in the job
    heads: list[bytes]  #: beginning of each result line, up to its custom_id


class Results:
    """The result lines of one job's shards."""

    def __init__(self, id: str, store: ChunkStore) -> None:
        self._id = id
        self._store = store

    def lines(self, shard: Shard, *, after: int = 0) -> Iterator[bytes]:
        """Yield the lines of a collected shard in stored order, without the first ``after``.

        Raises `NotFound` if chunks have expired.
        """
        if after >= line_count(shard):
            return iter(())
        lines = (
            self._uniform_lines(shard)
            if shard.uniform_result is not None
            else self._stored_lines(shard)
        )
        return islice(lines, after, None)

    def chunk_lines(self, name: str, count: int) -> Iterator[bytes]:
        """Yield the lines of chunks as they are stored. Raises `NotFound` if they have expired."""
        return lines_in(self._chunks(name, count))

    def custom_ids(self, shard: Shard) -> list[str]:
        """Return the custom_ids of a shard's requests. Raises `NotFound` if they have expired."""
        return [head.removeprefix(LINE_HEAD).decode() for head in self._ids(shard).heads]

    def submitted(self, shards: Iterable[Shard], *, after: int = 0) -> Iterator[bytes]:
        """Yield the lines of all collected shards as submitted, without the first ``after``.

        Shards overlap in the job if their beta headers differ or requests were retried; those that
        overlap are open at the same time. Raises `NotFound` if chunks have expired.
        """
        return islice(self._merged(shards), after, None)

    def _merged(self, shards: Iterable[Shard]) -> Iterator[bytes]:
        collected = [shard for shard in shards if line_count(shard)]
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
        """Return the lines of a shard with their positions in the job, by position."""
        ids = self._ids(shard)
        order = sorted(range(len(ids.heads)), key=ids.positions.__getitem__)
        if shard.uniform_result is not None:
            tail = _tail(shard)
            return ((ids.positions[index], ids.heads[index] + tail) for index in order)
        rests = (
            self._from_memory if shard.result_chunks <= _MAX_CHUNKS_IN_MEMORY else self._from_file
        )
        return (
            (ids.positions[index], ids.heads[index] + rest) for index, rest in rests(shard, order)
        )

    def _from_memory(self, shard: Shard, order: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yield index and rest of a shard's lines in this order: what follows the custom_id.

        Requests that were retried have their line in another shard.
        """
        rests = [b""] * shard.requests
        for chunk in self._chunks(shard.results, shard.result_chunks):
            for line in lines_of(chunk):
                rests[int(line[INDEX])] = line[ID_END:]
        for index in order:
            if rests[index]:
                yield index, rests[index]

    def _from_file(self, shard: Shard, order: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yield the same for a shard that is too large to be held in memory."""
        with TemporaryFile() as file:
            starts, sizes = self._unpacked(shard, file)
            number = file.fileno()
            for index in order:
                if sizes[index]:
                    yield index, os.pread(number, sizes[index], starts[index])

    def _unpacked(self, shard: Shard, file: IO[bytes]) -> "tuple[array[int], array[int]]":
        """Write a shard's lines into a file; returns where each rest begins and its size."""
        starts = array("Q", bytes(8 * shard.requests))
        sizes = array("Q", bytes(8 * shard.requests))
        at = 0
        for chunk in self._chunks(shard.results, shard.result_chunks):
            block = unpack(chunk)
            file.write(block)
            for line in block[:-1].split(b"\n"):
                index = int(line[INDEX])
                starts[index] = at + ID_END
                sizes[index] = len(line) - ID_END
                at += len(line) + 1
        file.flush()
        return starts, sizes

    def _stored_lines(self, shard: Shard) -> Iterator[bytes]:
        heads = self._ids(shard).heads
        for chunk in self._chunks(shard.results, shard.result_chunks):
            for line in lines_of(chunk):
                yield heads[int(line[INDEX])] + line[ID_END:]

    def _uniform_lines(self, shard: Shard) -> Iterator[bytes]:
        tail = _tail(shard)
        for head in self._ids(shard).heads:
            yield head + tail

    def _ids(self, shard: Shard) -> _ShardIds:
        ids = _ShardIds(array("Q"), [])
        for chunk in self._chunks(shard.id_chunk_name, shard.id_chunks):
            for line in lines_of(chunk):
                position, _, custom_id = line.partition(b" ")
                ids.positions.append(int(position))
                ids.heads.append(LINE_HEAD + custom_id)
        return ids

    def _chunks(self, name: str, count: int) -> Iterator[bytes]:
        try:
            yield from self._store.read(name, count)
        except ChunkMissing as error:
            raise NotFound(
                f"the results of {self._id} are no longer complete ({error}): "
                "they have expired or were removed"
            ) from error


def is_collected(shard: Shard) -> bool:
    """Whether a shard has its results. Raises `RecordUnreadable` if that is unknown."""
    if shard.state == UNREADABLE_RECORD:
        raise RecordUnreadable(f"the record of shard {shard.number} cannot be read")
    return shard.state == ShardState.COLLECTED


def line_count(shard: Shard) -> int:
    """Return how many result lines a shard has. Raises `RecordUnreadable` if that is unknown."""
    if not is_collected(shard):
        return 0
    return shard.result_lines if shard.uniform_result is None else shard.requests


class CollectionOrder:
    """The order in which shards were collected, from the job's events; pure.

    Their times do not give it: they come from the clocks of several machines, and a reader of a
    running job must find the same order later.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def shard_of(self, event: Event) -> int | None:
        """Return the number of the shard that this event reports as collected, or None."""
        collected = (
            event.type == events.PROGRESS and event.data.get("state") == ShardState.COLLECTED
        )
        number = event.data.get("shard")
        if not collected or not isinstance(number, int) or number in self._seen:
            return None
        self._seen.add(number)
        return number

    def without_event(self, shards: Collection[Shard]) -> list[Shard]:
        """Return the collected shards that no event has reported, since the log lost it.

        Raises `RecordUnreadable` if the record of a shard cannot be read.
        """
        missing = [s for s in shards if s.number not in self._seen and is_collected(s)]
        return sorted(missing, key=lambda shard: (shard.collected_ms, shard.number))


class LineOffset:
    """Where a reader continues: the number of lines to skip in shard after shard; pure."""

    def __init__(self, after: int) -> None:
        if after < 0:
            raise InvalidRequest("must be a number of lines, 0 or above", field="after")
        self._after = after

    def skip(self, shard: Shard) -> int:
        """Return how many lines of the next shard to skip."""
        skipped = min(self._after, line_count(shard))
        self._after -= skipped
        return skipped


def checked_order(order: str, *, wait: bool) -> str:
    """Return ``order``. Raises `InvalidRequest` if it is not one, or not one to wait with."""
    if order not in ORDERS:
        raise InvalidRequest("must be 'completed' or 'submitted'", field="order")
    if wait and order == "submitted":
        raise InvalidRequest(
            "results in the order of submission are available only when the job has ended",
            field="order",
        )
    return order


def _tail(shard: Shard) -> bytes:
    """Return what follows the custom_id in every line of a shard with a uniform result."""
    return RESULT + json_text.dumps(shard.uniform_result) + LINE_TAIL
