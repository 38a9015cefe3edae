"""A shard whose results can never be had: it is collected without them, and somebody is told."""

from typing import Any

import orjson

from penstock.batches.notices import Alert
from penstock.batches.shard import Counts, ShardState
from penstock.clock import now_ms
from tasks.batches.claim import ClaimedShard
from tasks.batches.limits import active_batches
from tasks.batches.step_result import Step


def collect_without(work: ClaimedShard, error_type: Alert, message: str, *, fatal: bool) -> Step:
    """Give every request of the shard this error in place of its result. ``fatal``: the job will
    have failed by it, once the rest of it has been done."""
    shard = work.shard
    error = {"type": error_type, "message": message}
    meta: dict[str, Any] = {"error": orjson.dumps(error)} if fatal else {}
    work.alert(error_type, message)
    active_batches.give_back(work)
    work.advance(
        "collect",
        shard.evolve(
            state=ShardState.COLLECTED,
            collected_ms=now_ms(),
            counts=Counts(errored=shard.requests),
            errors={str(error_type): shard.requests},
            uniform_result={"type": "errored", "error": {"type": "error", "error": error}},
        ),
        left=-1,
        spent="all",  # nobody knows what it was
        **meta,
    )
    return Step(summary={"kind": "batch", "batch_id": shard.batch_id, "error": error_type})
