"""Finds out what became of a create call whose response was lost."""

from typing import Final

from config.settings import WorkerSettings
from penstock.batches.notices import PauseReason
from penstock.batches.shard import Shard
from tasks.api.batches import BatchesApi
from tasks.api.client import idle_timeout
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create import batch_owners, size_locks
from tasks.batches.create.batch_creator import assign_batch
from tasks.batches.create.ended_candidates import SortedOut, sort_out
from tasks.batches.create.reconcile import (
    CLOCK_SKEW_MS,
    Abandon,
    Adopt,
    Observation,
    Rules,
    SearchLater,
    WrongWorkspace,
    candidates,
    decide,
    latest_creation_ms,
)
from tasks.batches.limits import active_batches
from tasks.batches.step_result import Parked, RetryIn, StepResult

#: Create calls of a shard without a batch until the job is paused: each costs nothing, but the
#: cause is not lost responses, such as a gateway that passes no call on.
_MAX_LOST_CALLS: Final = 3

#: Seconds until the next search, if the last one has seen only a part of the batches that fit.
_NEXT_S: Final = 1.0


class LostCallResolver:
    """Searches the API's list and does what `tasks.batches.create.reconcile` decides."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._timeout = idle_timeout(settings)

    def run(self, work: ClaimedShard, api: BatchesApi) -> StepResult | None:
        """Search once. None: the call is resolved, and the shard's record has the outcome."""
        observed = self._observe(work, api)
        decision = decide(work.shard, observed, self._rules())
        if isinstance(decision, Adopt):
            found = sort_out(work.shard, decision.batches, api, timeout=self._timeout)
            if found.foreign:
                rejected = (*work.shard.rejected, *found.foreign)
                work.write(work.shard.evolve(rejected=rejected))
            if found.candidates:
                return _adopt(work, found)
            # Without the batches of other calls: there may be nothing left to wait for.
            decision = decide(work.shard, observed, self._rules())
        match decision:
            case Adopt():
                raise AssertionError("every batch that can be adopted is sorted out")
            case SearchLater(shard, seconds, reason):
                work.write(shard)
                return RetryIn(seconds, reason)
            case Abandon(shard):
                # The lock first: if the worker dies before the record is written, the same is
                # decided again.
                size_locks.abandon(work)
                work.write(shard, spent=0)
                active_batches.release(work)
                if len(shard.abandoned_nonces) % _MAX_LOST_CALLS or work.cancel:
                    return None
                return _create_unanswered(shard)
            case WrongWorkspace():
                return wrong_workspace()

    def _observe(self, work: ClaimedShard, api: BatchesApi) -> Observation:
        shard = work.shard
        listing = api.since(shard.watermark_ms - CLOCK_SKEW_MS)
        now_ms, api_now_ms = work.job.now_ms(), listing.api_now_ms
        until_ms = latest_creation_ms(shard, now_ms, api_now_ms, self._rules())
        # The owners after the list: by then, every batch of this deployment that the list shows has
        # an owner, or its create call is still open.
        owners = batch_owners.owners_of(work, candidates(shard, listing.batches, until_ms))
        return Observation(listing.workspace, listing.batches, owners, now_ms, api_now_ms)

    def _rules(self) -> Rules:
        settings = self._settings
        return Rules(
            upload_timeout_ms=int(settings.upload_timeout_s * 1000),
            lost_create_wait_ms=int(settings.lost_create_wait_s * 1000),
            list_consistency_ms=int(settings.list_consistency_s * 1000),
        )


def _adopt(work: ClaimedShard, found: SortedOut) -> RetryIn | None:
    if found.unread:
        return RetryIn(_NEXT_S, "reading which of the ended batches is the shard's")
    if any(assign_batch(work, batch, confirmed=False) for batch in found.candidates):
        return None
    return RetryIn(_NEXT_S, "another shard adopted the batch first; searching again")


def restart_search(work: ClaimedShard, changed: Shard) -> None:
    """Search for the shard's batch again, since the one it has may not be its own.

    ``changed`` is the shard's new record. Raises `Fenced`.
    """
    # The lock first: without it, another shard that finds this shard's own batch in the list would
    # report it as unknown or as a duplicate.
    size_locks.reopen(work)
    # Before the record: the batch may belong to another shard that is searching for it now.
    batch_owners.release(work, work.shard.batch_id)
    work.write(changed)


def _create_unanswered(shard: Shard) -> Parked:
    """Pause the job: what answers its create calls creates no batches."""
    why = {
        "type": PauseReason.CREATE_UNANSWERED,
        "message": f"{len(shard.abandoned_nonces)} create calls of shard {shard.number} "
        f"({shard.size:,} bytes) created no batch; the last: {shard.lost or 'its worker was lost'}",
    }
    return Parked("create calls get no answer and create no batch", pause=why)


def wrong_workspace() -> Parked:
    """Pause the job: the workers' key belongs to another workspace than the call."""
    why = {
        "type": PauseReason.OTHER_WORKSPACE,
        "message": "the workers' key belongs to another organization or workspace than a create "
        "call was made for; whether the call created a batch can only be seen there",
    }
    return Parked("the list is of another workspace than the create call", pause=why)
