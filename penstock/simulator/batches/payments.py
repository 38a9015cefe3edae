"""What has been paid for, by request. Only what succeeded is paid."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from penstock.simulator.batches.store import Batch, Outcome
from penstock.simulator.messages.params_hash import hex_digest


def count_payments(batches: Iterable[Batch], live: Mapping[int, int]) -> dict[str, dict[str, int]]:
    """How often each request was paid for, in batches that ended and as live calls."""
    in_batches: Counter[int] = Counter()
    for batch in batches:
        if batch.ended_at is not None:
            hashes = batch.hashes
            in_batches.update(
                hashes[index] for index, outcome in batch.results() if outcome is Outcome.SUCCEEDED
            )
    return {
        hex_digest(key): {"batch": in_batches[key], "live": live.get(key, 0)}
        for key in in_batches.keys() | live.keys()
    }


def describe_batch(batch: Batch, *, deleted: bool, with_lines: bool) -> dict[str, Any]:
    """What became of a batch and, with ``with_lines``, of each line in the order sent."""
    whole = batch.as_dict("")
    known: dict[str, Any] = {
        "id": batch.id,
        "created_at": whole["created_at"],
        "status": batch.status,
        "counts": whole["request_counts"],
        "canceled": batch.cancel_initiated_at is not None,
        "deleted": deleted,
        "requests": batch.total,
        "paid": batch.counts[Outcome.SUCCEEDED],
        "first_custom_id": batch.custom_ids[0].decode(),
    }
    if with_lines:
        known["lines"] = _lines(batch)
    return known


def _lines(batch: Batch) -> list[list[str | None]]:
    """``[custom_id, hash, outcome]`` of each line.

    The hash is None until the line is evaluated, which takes a moment. The outcome is None until
    the batch has ended.
    """
    names: list[str | None] = [None] * batch.total
    if batch.ended_at is not None:
        for index, outcome in batch.results():
            names[index] = outcome.name.lower()
    return [
        [custom_id.decode(), None if key is None else hex_digest(key), name]
        for custom_id, key, name in zip_longest(batch.custom_ids, batch.hashes, names)
    ]
