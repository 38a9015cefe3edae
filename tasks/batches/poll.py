"""The poll step: checks whether the shard's batch has ended.

A batch at the API is paid for, so polling never gives up: a call that fails is counted and retried
without a limit. Only if the API does not know the batch is the job paused.
"""

from typing import Final

import anthropic
from anthropic.types.messages import MessageBatch

from config.settings import WorkerSettings
from penstock.batches.notices import Alert, PauseReason
from penstock.batches.shard import Shard, ShardState
from penstock.clock import now_ms
from penstock.jitter import jitter
from tasks.api.batches import BatchesApi
from tasks.api.client import idle_timeout, problem_of
from tasks.api.retry import wait_s
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create.lost_call import restart_search, wrong_workspace
from tasks.batches.create.reconcile import without_batch
from tasks.batches.limits import active_batches
from tasks.batches.step_result import Next, Parked, RetryIn, StepResult
from tasks.batches.transient_404 import noted_404
from tasks.batches.unavailable import collect_without

#: Polls, over some minutes, in which the API must not know a batch before its results are given up.
_NOT_FOUND: Final = 10

#: The chunks' TTLs are refreshed once this fraction (one tenth) of them has passed.
_REFRESH_DIVISOR: Final = 10


class PollStep:
    """Polls a shard's batch until it has ended."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._settings = settings
        self._api = api
        self._timeout = idle_timeout(settings)

    def run(self, work: ClaimedShard) -> StepResult:
        """Poll once; if the job is to be canceled, cancel the batch at the API."""
        if work.shard.state != ShardState.IN_PROGRESS:
            return _ended(work.shard)
        try:
            batch = self._poll(work)
        except anthropic.NotFoundError as error:
            return not_found(work, self._api, error)
        shard = work.shard.evolve(
            polls=work.shard.polls + 1, failures=0, not_found_count=0, not_found_ms=0
        )
        if batch.processing_status == "ended":
            # Before the record says so: a slot that is never released blocks others for a day.
            woken = active_batches.release_and_wake(work)
            work.advance("poll", shard.evolve(state=ShardState.ENDED, ended_ms=now_ms()))
            return _ended(work.shard, wake=woken)
        work.write(shard)
        refresh_chunk_ttls(work)
        return self._poll_later(shard, batch)

    def _poll(self, work: ClaimedShard) -> MessageBatch:
        api, id = BatchesApi(self._api, work.job.headers()), work.shard.batch_id
        batch = api.retrieve(id, timeout=self._timeout)
        # A batch that was found in the list may belong to another program.
        ours = work.shard.confirmed or self._settings.dedicated_workspace
        if work.cancel and ours and batch.processing_status == "in_progress":
            return api.cancel(id, timeout=self._timeout)
        return batch

    def _poll_later(self, shard: Shard, batch: MessageBatch) -> RetryIn:
        age_s = max(now_ms() - shard.created_ms, 0) / 1000
        # A batch that is being canceled ends soon, however old it is.
        canceled_at = batch.cancel_initiated_at
        since_s = age_s
        if canceled_at is not None:
            since_s = max(now_ms() / 1000 - canceled_at.timestamp(), 0.0)
        settings = self._settings
        wait = next_poll_s(
            since_s,
            share=settings.poll_interval_ratio,
            shortest_s=settings.poll_interval_min_s,
            longest_s=settings.poll_interval_max_s,
            jitter=jitter(),
        )
        return RetryIn(wait, f"{shard.batch_id} is {batch.processing_status}, {_age(age_s)} old")


def next_poll_s(
    age_s: float, *, share: float, shortest_s: float, longest_s: float, jitter: float
) -> float:
    """Seconds until the next poll of a batch that is ``age_s`` old; pure.

    A fixed share of its age, so that the end of any batch is noticed within that share of the time
    the batch took, with few calls. ``jitter`` is random in [0, 1]: batches that were created
    together do not stay in step.
    """
    wait = max(age_s, 0.0) * share * (0.9 + 0.2 * jitter)
    return min(max(wait, shortest_s), longest_s)


def refresh_chunk_ttls(work: ClaimedShard) -> None:
    """Keep the chunks of a long job from expiring, if they have not been refreshed lately."""
    ttl_s = work.settings.batch_ttl_s
    created_ms, kept_ms = work.job.fields("created_ms", "kept_ms")
    if now_ms() - int(kept_ms or created_ms or 0) < ttl_s * 1000 // _REFRESH_DIVISOR:
        return
    store = work.job.store()
    for shard in work.job.shards():
        store.refresh_ttl(shard.chunk_names, ttl_s)
    work.write(kept_ms=now_ms())


def not_found(
    work: ClaimedShard, api: anthropic.Anthropic, error: anthropic.NotFoundError
) -> StepResult:
    """Decide what to do about a batch that the API does not know, or no longer knows.

    The API is asked again for some minutes first, then the job is paused. The results are given up
    only once the operator has resumed or canceled it.
    """
    settings, shard = work.settings, work.shard
    message = f"the API does not know {shard.batch_id}: {problem_of(error).message}"
    if now_ms() - shard.created_ms < settings.list_consistency_s * 1000:
        return _retry(work, shard)
    if not shard.not_found_count and not work.paused:
        noted = noted_404(shard, work.job.now_ms())
        if noted is not None:
            return _retry(work, noted)
    if not shard.confirmed:
        # Another program may have created and deleted it; then ours is still in the list.
        restart_search(work, without_batch(shard))
        reason = f"{shard.batch_id} does not exist; searching for the shard's batch"
        return RetryIn(settings.list_consistency_s, reason)
    if not work.cancel and (work.paused or not shard.not_found_count):
        work.write(shard.evolve(not_found_count=1))
        why = {"type": PauseReason.BATCH_NOT_FOUND, "message": message}
        return Parked(f"the API does not know {shard.batch_id}", pause=why)
    if shard.not_found_count < _NOT_FOUND:
        return _retry(work, shard.evolve(not_found_count=shard.not_found_count + 1))
    if (
        shard.workspace
        and BatchesApi(api, work.job.headers()).newest().workspace != shard.workspace
    ):
        return wrong_workspace()
    return collect_without(work, Alert.BATCH_NOT_FOUND, message, fatal=not work.cancel)


def _retry(work: ClaimedShard, shard: Shard) -> RetryIn:
    work.write(shard.evolve(failures=shard.failures + 1))
    wait = wait_s(shard.failures + 1, None, work.settings.api_retry_max_wait_s, jitter())
    return RetryIn(wait, f"the API does not know {shard.batch_id}")


def _ended(shard: Shard, wake: tuple[int, ...] = ()) -> Next:
    summary = {"kind": "batch", "batch_id": shard.batch_id, "polls": shard.polls}
    return Next(summary, wake=wake)


def _age(seconds: float) -> str:
    """An age, short enough for a column of Flower."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
