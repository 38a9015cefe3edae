"""Searching for the batch of a create call whose answer never came."""

import anthropic

from config.settings import WorkerSettings
from penstock.batches.notices import PauseReason
from penstock.batches.shard import Shard
from tasks.api.batches import BatchesApi
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create import batch_owners, size_locks
from tasks.batches.create.batch_creator import assign_batch
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
)
from tasks.batches.limits import active_batches
from tasks.batches.step_result import Parked, RetryIn, StepResult


class LostCallResolver:
    """Looks at the API's list, and does what `tasks.batches.create.reconcile` decides."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._settings = settings
        self._api = api

    def run(self, work: ClaimedShard, api: BatchesApi) -> StepResult | None:
        """Look once. None: the fate of the call is known, and the record says it."""
        decision = decide(work.shard, self._observe(work, api), self._rules())
        match decision:
            case Adopt(batches):
                if any(assign_batch(work, batch, confirmed=False) for batch in batches):
                    return None
                return RetryIn(1.0, "another shard was faster; looking again")
            case SearchLater(shard, seconds, reason):
                work.write(shard)
                return RetryIn(seconds, reason)
            case Abandon(shard):
                # The tag first: should we die in between, this is decided once more.
                size_locks.abandon(work)
                work.write(shard, spent=0)
                active_batches.release(work)
                return None
            case WrongWorkspace():
                return wrong_workspace()

    def _observe(self, work: ClaimedShard, api: BatchesApi) -> Observation:
        listing = api.since(work.shard.watermark_ms - CLOCK_SKEW_MS)
        # Owners after the list: whatever it shows of ours has been bound since, or is still open.
        possible = candidates(work.shard, listing.batches)
        owners = batch_owners.owners_of(work, possible)
        return Observation(listing.workspace, listing.batches, owners, work.job.now_ms())

    def _rules(self) -> Rules:
        settings = self._settings
        return Rules(
            upload_timeout_ms=int(settings.upload_timeout_s * 1000),
            lost_create_wait_ms=int(settings.lost_create_wait_s * 1000),
            list_consistency_ms=int(settings.list_consistency_s * 1000),
        )


def restart_search(work: ClaimedShard, changed: Shard) -> None:
    """Look for the shard's batch again: the one it has is another's, or may be. ``changed`` is its
    new record. Raises `Fenced`."""
    # Otherwise another shard that sees our own batch in the list takes it for unknown or duplicate.
    size_locks.reopen(work)
    # Before the record: its owner may be a shard of ours that is looking for it now.
    batch_owners.release(work, work.shard.batch_id)
    work.write(changed)


def wrong_workspace() -> Parked:
    """The workers' key is of another account than the shard's call was made for."""
    why = {
        "type": PauseReason.OTHER_ACCOUNT,
        "message": "a create call was made for another organization or workspace than the "
        "workers' key belongs to now; whether it made a batch can only be seen there",
    }
    return Parked("the list is of another account than the call", pause=why)
