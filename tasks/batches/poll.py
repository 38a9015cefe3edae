"""The poll step: has the shard's batch ended?

A batch at the API is paid for, so no trouble ends the looking: an answer that says "not now" is
counted and asked for again, for ever, and only a batch that the API does not know stops it.
"""

from typing import Final

import anthropic
from anthropic.types.messages import MessageBatch

from config.settings import WorkerSettings
from penstock.batches.notices import Alert, PauseReason
from penstock.batches.shard import Shard, ShardState
from penstock.clock import now_ms
from penstock.jitter import jitter
from tasks.api.batch_calls import cancel_batch, job_headers, retrieve_batch
from tasks.api.batches import BatchesApi
from tasks.api.client import problem_of
from tasks.api.retry import wait_s
from tasks.batches.cadence import next_look_s
from tasks.batches.claim import ClaimedShard
from tasks.batches.create import size_locks
from tasks.batches.create.lost_call import elsewhere
from tasks.batches.create.reconcile import sought
from tasks.batches.keeping import keep_chunks
from tasks.batches.limits import active_batches
from tasks.batches.step_result import Step
from tasks.batches.unavailable import collect_without

#: So often the API has to say that it does not know a batch, some minutes long, before its results
#: are given up.
_NOT_FOUND: Final = 10


class PollStep:
    """Looks after a shard's batch until it has ended."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._settings = settings
        self._api = api

    def run(self, work: ClaimedShard) -> Step:
        """Look once; pass a wish to cancel on to the API."""
        if work.shard.state != ShardState.IN_PROGRESS:
            return _over(work.shard)
        try:
            batch = self._look(work)
        except anthropic.NotFoundError as error:
            return not_found(work, self._api, error)
        shard = work.shard.evolve(polls=work.shard.polls + 1, failures=0, not_found_count=0)
        if batch.processing_status == "ended":
            # Before the record says so: a slot that nobody gives back blocks others for a day.
            woken = active_batches.free(work)
            work.advance("poll", shard.evolve(state=ShardState.ENDED, ended_ms=now_ms()))
            return _over(work.shard, wake=woken)
        work.write(shard)
        keep_chunks(work)
        return self._again(shard, batch)

    def _look(self, work: ClaimedShard) -> MessageBatch:
        batch = retrieve_batch(self._api, work)
        # One that was only found may be another program's.
        ours = work.shard.confirmed or self._settings.dedicated_workspace
        if work.cancel and ours and batch.processing_status == "in_progress":
            return cancel_batch(self._api, work)
        return batch

    def _again(self, shard: Shard, batch: MessageBatch) -> Step:
        age_s = max(now_ms() - shard.created_ms, 0) / 1000
        # What is being canceled ends soon, however old it is.
        asked = batch.cancel_initiated_at
        since_s = age_s if asked is None else max(now_ms() / 1000 - asked.timestamp(), 0.0)
        settings = self._settings
        wait = next_look_s(
            since_s,
            share=settings.poll_interval_ratio,
            shortest_s=settings.poll_interval_min_s,
            longest_s=settings.poll_interval_max_s,
            jitter=jitter(),
        )
        reason = f"{shard.batch_id} is {batch.processing_status}, {_age(age_s)} old"
        return Step(countdown_s=wait, reason=reason)


def not_found(work: ClaimedShard, api: anthropic.Anthropic, error: anthropic.NotFoundError) -> Step:
    """What to do when the API does not know the batch (any more): ask somebody, and give its
    results up only when that one lets the job go on, or cancels it."""
    settings, shard = work.settings, work.shard
    message = f"the API does not know {shard.batch_id}: {problem_of(error).message}"
    if now_ms() - shard.created_ms < settings.list_consistency_s * 1000:
        return _once_more(work, shard)
    if not shard.confirmed:
        # It may have been another program's, which has deleted it; then ours is in the list.
        size_locks.disown(work, sought(shard))
        return Step(countdown_s=settings.list_consistency_s, reason=f"{shard.batch_id} is gone")
    if not work.cancel and (work.paused or not shard.not_found_count):
        work.write(shard.evolve(not_found_count=1))
        why = {"type": PauseReason.BATCH_NOT_FOUND, "message": message}
        return Step(pause=why, park=True, reason=f"the API does not know {shard.batch_id}")
    if shard.not_found_count < _NOT_FOUND:
        return _once_more(work, shard.evolve(not_found_count=shard.not_found_count + 1))
    if shard.workspace and BatchesApi(api, job_headers(work)).newest().workspace != shard.workspace:
        return elsewhere()
    return collect_without(work, Alert.BATCH_NOT_FOUND, message, fatal=not work.cancel)


def _once_more(work: ClaimedShard, shard: Shard) -> Step:
    work.write(shard.evolve(failures=shard.failures + 1))
    wait = wait_s(max(shard.not_found_count, 1), None, work.settings.api_retry_max_wait_s, jitter())
    return Step(countdown_s=wait, reason=f"the API does not know {shard.batch_id}")


def _over(shard: Shard, wake: tuple[int, ...] = ()) -> Step:
    summary = {"kind": "batch", "batch_id": shard.batch_id, "polls": shard.polls}
    return Step(summary=summary, wake=wake)


def _age(seconds: float) -> str:
    """An age in words short enough for a column of Flower."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
