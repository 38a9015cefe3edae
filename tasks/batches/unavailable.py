"""Collects a shard whose results can never be downloaded, and raises an alert."""

from typing import Any

from penstock import json_text
from penstock.batches.notices import Alert
from penstock.batches.shard import Counts, ShardState
from penstock.batches.unreadable import errored
from penstock.clock import now_ms
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.limits import active_batches
from tasks.batches.step_result import Next


def collect_without(work: ClaimedShard, error_type: Alert, message: str, *, fatal: bool) -> Next:
    """Give every request of the shard this error in place of its result.

    ``fatal``: the job ends as failed, once its other shards are collected.
    """
    shard = work.shard
    error = {"type": error_type, "message": message}
    meta: dict[str, Any] = {"error": json_text.dumps(error)} if fatal else {}
    work.alert(error_type, message)
    active_batches.release(work)
    work.advance(
        "collect",
        shard.evolve(
            state=ShardState.COLLECTED,
            collected_ms=now_ms(),
            counts=Counts(errored=shard.requests),
            errors={str(error_type): shard.requests},
            uniform_result=errored(error_type, message),
        ),
        left=-1,
        spent="all",  # the actual cost is unknown
        **meta,
    )
    return Next({"kind": "batch", "batch_id": shard.batch_id, "error": str(error_type)})
