"""The finish step: ends the job when its last shard has been collected."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import orjson

from config.settings import WorkerSettings
from penstock import events, json_text
from penstock.batches.shard import Counts, Shard, ShardState, usage_by_model
from penstock.batches.unreadable import MISSING, UNREADABLE
from penstock.states import State
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.limits.prices import cost_of
from tasks.batches.step_result import JobEnded, ShardDone

#: Shards whose chunks get their TTL in one call.
_SHARDS_PER_CALL: Final = 200


class FinishStep:
    """Ends a job whose shards are all collected."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def run(self, work: ClaimedShard) -> ShardDone | JobEnded:
        """End the job if this shard was the last to be collected."""
        left = work.job.shards_left()
        if left > 0:
            return ShardDone({"kind": "batch", "shards_left": left})
        shards = work.job.shards()
        collected = sum(shard.state == ShardState.COLLECTED for shard in shards)
        open_ = work.job.shard_count() - collected  # also one whose record cannot be read
        if open_:
            return ShardDone({"kind": "batch", "shards_left": open_})
        self._retain(work, shards)
        return self._end(work, shards)

    def _end(self, work: ClaimedShard, shards: list[Shard]) -> JobEnded:
        counts = sum((shard.counts for shard in shards), Counts())
        models = usage_by_model(shards)
        usage = dict(sum(models.values(), Counter()))
        cost = cost_of(
            ((shard.usage, shard.live) for shard in shards),
            sum(shard.live_calls_cost for shard in shards) / 1_000_000,
            _not_shown(shards),
        )
        [error] = work.job.fields("error")
        state = _final(work.cancel, counts, error)
        end: dict[str, Any] = {
            "type": events.END,
            "state": state,
            "counts": orjson.loads(orjson.dumps(counts)),
            "usage": usage,
            "usage_by_model": models,
            "cost": cost,
        }
        simulated = {"simulated": True} if any(shard.simulated for shard in shards) else {}
        end |= simulated
        if work.cancel:
            end["by"] = work.cancel
        if error:
            end["error"] = json_text.loads(error)
        fields = {"simulated": 1} if simulated else {}
        work.end(state, end, usage=json_text.dumps(usage), cost=json_text.dumps(cost), **fields)
        summary = {"kind": "batch", **simulated, "state": str(state)}
        return JobEnded({**summary, "counts": end["counts"], "cost": cost})

    def _retain(self, work: ClaimedShard, shards: list[Shard]) -> None:
        """Set the retention of the results and of failed requests, and remove all others.

        Called before the job ends: after that, no step would repeat it.
        """
        store = work.job.store()
        for some in _parts(shards, _SHARDS_PER_CALL):
            done = [each.request_chunk_name for each in some if not each.keeps_all_requests]
            store.remove(done)
            kept = {name for shard in some for name in shard.chunk_names} - set(done)
            store.refresh_ttl(kept, self._settings.batch_retention_s)


def _final(cancel: str, counts: Counts, error: str) -> State:
    if error:
        return State.FAILED
    return State.CANCELED if cancel and not counts.succeeded else State.DONE


def _not_shown(shards: list[Shard]) -> set[str]:
    """Return the error types of requests that may be billed, although no usage shows it."""
    return {type for shard in shards for type in (UNREADABLE, MISSING) if type in shard.errors}


def _parts(shards: list[Shard], size: int) -> Iterator[list[Shard]]:
    for first in range(0, len(shards), size):
        yield shards[first : first + size]
