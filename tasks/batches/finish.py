"""The finish step: the job ends when its last shard has been collected."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from config.settings import WorkerSettings
from penstock import events
from penstock.batches.shard import Counts, Shard, ShardState
from penstock.states import State
from tasks.batches.claim import ClaimedShard
from tasks.batches.limits.prices import cost_of
from tasks.batches.step_result import Step

#: Shards whose chunks are given their lifetime at once.
_AT_ONCE: Final = 200


class FinishStep:
    """Ends a job whose shards are all collected."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def run(self, work: ClaimedShard) -> Step:
        """End the job, or leave that to the shard that is collected last."""
        left = int(work.read_job("left")[0] or 0)
        if left > 0:
            return Step(summary={"kind": "batch", "shards_left": left}, done=True)
        shards = work.all_shards()
        open_ = sum(shard.state != ShardState.COLLECTED for shard in shards)
        if open_:
            return Step(summary={"kind": "batch", "shards_left": open_}, done=True)
        self._retain(work, shards)
        return self._end(work, shards)

    def _end(self, work: ClaimedShard, shards: list[Shard]) -> Step:
        counts = sum((shard.counts for shard in shards), Counts())
        models = _by_model(shards)
        usage = dict(sum(models.values(), Counter()))
        cost = cost_of((shard.usage, shard.live) for shard in shards)
        [error] = work.read_job("error")
        state = _final(work.cancel, counts, error)
        end: dict[str, Any] = {
            "type": events.END,
            "state": state,
            "counts": orjson.loads(orjson.dumps(counts)),
            "usage": usage,
            "usage_by_model": models,
            "cost": cost,
        }
        if work.cancel:
            end["by"] = work.cancel
        if error:
            end["error"] = orjson.loads(error)
        work.end(state, end, usage=orjson.dumps(usage), cost=orjson.dumps(cost))
        summary = {"kind": "batch", "state": str(state), "counts": end["counts"], "cost": cost}
        return Step(summary=summary, ended=True)

    def _retain(self, work: ClaimedShard, shards: list[Shard]) -> None:
        """Keep the results for as long as the settings say; the requests are not needed now.

        Before the job ends: afterwards nobody would come back to do it.
        """
        store = work.store()
        for some in _parts(shards, _AT_ONCE):
            store.remove([f"requests-{shard.spool}" for shard in some])
            kept = [name for shard in some for name in (f"ids-{shard.spool}", shard.results)]
            store.keep([name for name in kept if name], self._settings.batch_retention_s)


def _final(cancel: str, counts: Counts, error: str) -> State:
    if error:
        return State.FAILED
    return State.CANCELED if cancel and not counts.succeeded else State.DONE


def _by_model(shards: Iterable[Shard]) -> dict[str, Counter[str]]:
    models: dict[str, Counter[str]] = {}
    for shard in shards:
        for model, tokens in shard.usage.items():
            models.setdefault(model, Counter()).update(tokens)
    return models


def _parts(shards: list[Shard], size: int) -> Iterator[list[Shard]]:
    for first in range(0, len(shards), size):
        yield shards[first : first + size]
