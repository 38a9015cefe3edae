"""Batch jobs and shards in the states that the tests of the text modules need."""

from datetime import UTC, datetime
from typing import Any

from penstock.batches.shard import Counts, Shard
from penstock.batches.view import Batch, Notice, Progress
from penstock.clock import now_ms
from penstock.states import State

MADE = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
PAUSED = Notice("billing_error", "Your credit balance\nis too low.", MADE)
ALERT = Notice("duplicate_batch", "msgbatch_x may be a duplicate", MADE)


def planned(number: int, requests: int = 10) -> Shard:
    return Shard(number=number, requests=requests, counts=Counts(processing=requests))


def running(number: int, **fields: Any) -> Shard:
    sent = {"batch_id": f"msgbatch_{number}", "created_ms": now_ms() - 180_000}
    return planned(number).evolve(state="in_progress", **sent, **fields)


def collected(number: int, errored: int = 0, **fields: Any) -> Shard:
    counts = Counts(succeeded=10 - errored, errored=errored)
    return running(number).evolve(state="collected", counts=counts, **fields)


def batch(*shards: Shard, **fields: Any) -> Batch:
    counts = sum(
        (s.counts if s.state == "collected" else Counts(processing=s.requests) for s in shards),
        Counts(),
    )
    known: dict[str, Any] = {
        "id": "01a2-job",
        "processing_status": "in_progress",
        "request_counts": counts,
        "created_at": MADE,
        "ended_at": None,
        "cancel_initiated_at": None,
        "state": State.RUNNING,
        "cancel_initiated": False,
        "paused": None,
        "alert": None,
        "waiting_for_canary": False,
        "model": "claude-haiku-4-5",
        "progress": Progress.of(shards),
        "shards": shards,
        "usage": {},
        "usage_by_model": {},
        "cost": None,
        "budget": None,
        "error": None,
    }
    return Batch(**{**known, **fields})
