"""Batches in memory. Time is an argument: a batch's state follows from the clock."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from math import gcd
from typing import Any


class Outcome(IntEnum):
    """How one request of a batch ends."""

    SUCCEEDED = 0
    ERRORED = 1
    CANCELED = 2
    EXPIRED = 3


_OUTCOMES = tuple(Outcome)


class PackedLines:
    """Many short byte strings in one piece of memory.

    Measured: as separate objects, the lines of a large batch take three times their size.
    """

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self._data = bytearray()
        self._bounds = array("Q", [0])
        self._gap = 0
        for line in lines:
            self.append(line)

    @classmethod
    def from_bounds(cls, data: bytearray, bounds: "array[int]", *, gap: int) -> "PackedLines":
        """Lines of existing data, from each bound to ``gap`` bytes before the next."""
        lines = cls()
        lines._data, lines._bounds, lines._gap = data, bounds, gap
        return lines

    def append(self, line: bytes) -> None:
        """Add a line."""
        self._data += line
        self._bounds.append(len(self._data))

    def __len__(self) -> int:
        """The number of lines."""
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> bytes:
        """The line at an index."""
        return bytes(self._data[self._bounds[index] : self._bounds[index + 1] - self._gap])

    def __iter__(self) -> Iterator[bytes]:
        """Yield every line."""
        return (self[index] for index in range(len(self)))


#: Minimum share of a canceled batch that was processed before the cancellation took effect.
_MIN_DONE_RATIO = 0.25


@dataclass(kw_only=True)
class Batch:
    """One message batch."""

    id: str
    created_at: datetime
    custom_ids: PackedLines
    lines: PackedLines  #: each request as its raw JSON: {"custom_id": …, "params": …}
    #: The outcome of each line unless the batch is canceled, one byte a line. Filled by `evaluate`.
    outcomes: bytearray = field(default_factory=bytearray)
    #: The hash of each line's params, see `params_hash`. Filled by `evaluate`.
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    rendered: PackedLines | None = None  #: each line's result, where ``prerender`` is set
    version: str
    betas: str = ""
    ends_at: datetime
    answer_bytes: int = 0  #: size of an answer's text; 0: the prompt decides
    mark: bool = False  #: every answer's text begins with a mark
    held: bool = False  #: stays in progress until released, whatever the time
    cancel_initiated_at: datetime | None = None
    ended_at: datetime | None = None
    archived_at: datetime | None = None
    #: Lines, in the order of the results, that were processed when the batch was canceled.
    processed_at_cancel: int | None = None
    counts: Counter[Outcome] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """The number of requests."""
        return len(self.custom_ids)

    @property
    def status(self) -> str:
        """The processing status as of the last `advance`."""
        if self.ended_at:
            return "ended"
        return "canceling" if self.cancel_initiated_at else "in_progress"

    def advance(self, now: datetime) -> None:
        """End the batch if it is due and all its lines are evaluated."""
        evaluated = len(self.outcomes) == self.total
        if self.ended_at is None and evaluated and not self.held and now >= self.ends_at:
            self.end(self.ends_at)

    def end(self, at: datetime) -> None:
        """End the batch."""
        self.ended_at = at
        # Counting bytes, one a line, is what makes it fast for a large batch.
        codes = (
            self.outcomes if self.processed_at_cancel is None else [o for _, o in self.results()]
        )
        self.counts = Counter({Outcome(code): n for code, n in Counter(codes).items()})

    def cancel(self, now: datetime) -> None:
        """Start to cancel. What has not been processed by ``now`` never will be."""
        if self.status != "in_progress":
            return
        window = self.ends_at - self.created_at
        share = 0.0 if self.held or not window else (now - self.created_at) / window
        self.processed_at_cancel = int(self.total * min(1.0, max(_MIN_DONE_RATIO, share)))
        self.cancel_initiated_at = now
        self.ends_at = min(self.ends_at, now + window / 4)
        self.held = False

    def results(self) -> Iterator[tuple[int, Outcome]]:
        """Yield each line's index and outcome, not in the order of the requests."""
        done = self.total if self.processed_at_cancel is None else self.processed_at_cancel
        for place, index in enumerate(scattered(self.total)):
            yield index, _OUTCOMES[self.outcomes[index]] if place < done else Outcome.CANCELED

    def as_dict(self, base_url: str) -> dict[str, Any]:
        """The batch as the API shows it."""
        ended = self.ended_at is not None
        counts = {outcome.name.lower(): self.counts[outcome] for outcome in Outcome}
        available = ended and not self.archived_at
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": self.status,
            # As at the API, this shows no progress: all are in processing until the end.
            "request_counts": {"processing": 0 if ended else self.total, **counts},
            "created_at": _timestamp(self.created_at),
            "expires_at": _timestamp(self.created_at + timedelta(hours=24)),
            "ended_at": _timestamp(self.ended_at),
            "cancel_initiated_at": _timestamp(self.cancel_initiated_at),
            "archived_at": _timestamp(self.archived_at),
            "results_url": f"{base_url}/v1/messages/batches/{self.id}/results"
            if available
            else None,
        }


class BatchStore:
    """All batches, oldest first."""

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}
        self._deleted: list[Batch] = []

    def add(self, batch: Batch) -> None:
        """Store a batch."""
        self._batches[batch.id] = batch

    def get(self, batch_id: str, now: datetime) -> Batch | None:
        """The batch as of ``now``, or None."""
        batch = self._batches.get(batch_id)
        if batch is not None:
            batch.advance(now)
        return batch

    def delete(self, batch_id: str) -> None:
        """Delete a batch, but not the record of what was paid for it."""
        batch = self._batches.pop(batch_id, None)
        if batch is not None:
            batch.lines, batch.rendered = PackedLines(), None
            self._deleted.append(batch)

    def clear(self) -> None:
        """Delete all batches."""
        self._batches.clear()
        self._deleted.clear()

    def history(self, now: datetime) -> list[tuple[Batch, bool]]:
        """Every batch there has been, oldest first, and whether it was deleted."""
        for batch in self._batches.values():
            batch.advance(now)
        found = [(batch, False) for batch in self._batches.values()]
        found += [(batch, True) for batch in self._deleted]
        return sorted(found, key=lambda each: each[0].created_at)

    def in_progress(self, now: datetime) -> list[Batch]:
        """The batches that have not ended."""
        for batch in self._batches.values():
            batch.advance(now)
        return [batch for batch in self._batches.values() if batch.ended_at is None]

    def page(
        self,
        now: datetime,
        *,
        limit: int,
        after_id: str | None,
        before_id: str | None,
        lag_s: float = 0.0,
    ) -> tuple[list[Batch], bool] | None:
        """A page, newest first, and whether there is more in its direction.

        ``after_id`` asks for the batches that follow it in that order, which are older;
        ``before_id`` for those just before it. Returns None when the cursor is not a batch or a
        deleted one. A batch created less than ``lag_s`` seconds ago is left out, but may be the
        cursor.
        """
        cursor = after_id or before_id
        newest = now - timedelta(seconds=lag_s)
        order = [
            name
            for name, batch in reversed(self._batches.items())
            if batch.created_at <= newest or name == cursor
        ]
        if cursor is not None and cursor not in self._batches:
            return None
        if before_id:
            rest = order[: order.index(before_id)]
            ids, more = rest[-limit:], len(rest) > limit
        else:
            rest = order[order.index(after_id) + 1 :] if after_id else order
            ids, more = rest[:limit], len(rest) > limit
        found = [self._batches[each] for each in ids]
        for batch in found:
            batch.advance(now)
        return found, more


def scattered(count: int) -> Iterator[int]:
    """Yield 0 … count-1 in a fixed, not ascending order, without storing a list."""
    step = max(1, int(count * 0.618))
    while gcd(step, count) != 1:
        step += 1
    offset = count // 2
    for place in range(count):
        yield (offset + place * step) % count


def now_utc() -> datetime:
    """The current time."""
    return datetime.now(UTC)


def _timestamp(at: datetime | None) -> str | None:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if at else None
