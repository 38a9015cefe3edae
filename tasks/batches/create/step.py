"""The create step: a planned shard becomes a batch at the API, once.

It can die and be run again anywhere. A shard whose call may have made a batch is never sent again
before it is certain that there is none.
"""

from typing import Final

import anthropic

from config.settings import WorkerSettings
from penstock.batches.shard import Counts, ShardState
from penstock.spool.chunks import ChunkMissing
from tasks.api.batches import BatchesApi
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create.batch_creator import (
    BatchCreator,
    created,
    release_reservations,
    requests_missing,
)
from tasks.batches.create.canary import Canary
from tasks.batches.create.lost_call import LostCallResolver
from tasks.batches.create.reconcile import without_call
from tasks.batches.step_result import Parked, RetryIn, StepResult

#: Seconds until a shard that waits for the job's canary looks again; the canary wakes it before.
_CANARY_WAIT_S: Final = 300.0


class CreateStep:
    """Makes a shard a batch."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._api = api
        self._creator = BatchCreator(settings, api)
        self._resolver = LostCallResolver(settings, api)
        self._canary = Canary()

    def run(self, work: ClaimedShard) -> StepResult:
        """Do what is missing. Raises `anthropic.APIError`; nothing is sent then."""
        if work.shard.state == ShardState.SENDING:
            step = self._resolve(work)
            if step is not None:
                return step
        return self._plan(work) if work.shard.state == ShardState.PLANNED else created(work)

    def _resolve(self, work: ClaimedShard) -> StepResult | None:
        """A call was begun, and its answer is not known."""
        if work.shard.sent_ms:
            return self._resolver.run(work, self._calls(work))
        # Its last bytes never went out, nor can they now: we have the claim.
        work.write(without_call(work.shard))
        return None

    def _plan(self, work: ClaimedShard) -> StepResult:
        if work.cancel:
            return self._cancel(work)
        if work.paused:
            release_reservations(work)
            return Parked(f"the job is paused: {work.paused.get('type')}")
        if work.shard.live:
            try:
                return self._canary.run(work, self._calls(work))
            except ChunkMissing as error:
                return requests_missing(error)
        [waiting_for_canary] = work.job.fields("waiting_for_canary")
        if waiting_for_canary:
            return RetryIn(_CANARY_WAIT_S, "waiting for the first requests, sent live")
        return self._creator.run(work, self._calls(work))

    def _cancel(self, work: ClaimedShard) -> StepResult:
        """The job is canceled, and the shard was never sent."""
        shard = work.shard
        if shard.live_results:
            return self._canary.cancel(work)
        canceled = shard.evolve(
            state=ShardState.COLLECTED,
            uniform_result={"type": "canceled"},
            counts=Counts(canceled=shard.requests),
            collected_ms=work.job.now_ms(),
        )
        release_reservations(work)
        work.advance("create", canceled, left=-1)
        return created(work)

    def _calls(self, work: ClaimedShard) -> BatchesApi:
        return BatchesApi(self._api, work.job.headers(), work.shard.betas)
