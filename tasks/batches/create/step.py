"""The create step: creates the batch of a planned shard at the API, once.

The worker can die at any point, and the step can run again. A shard whose create call may have
created a batch is not sent again until it is certain, by the rules of
`tasks.batches.create.reconcile`, that there is none.
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
from tasks.batches.create.gather import gather
from tasks.batches.create.lost_call import LostCallResolver
from tasks.batches.create.reconcile import without_call
from tasks.batches.step_result import Parked, RetryIn, StepResult

#: Seconds until a shard that waits for the job's canary checks again. The canary wakes it earlier.
_CANARY_WAIT_S: Final = 300.0


class CreateStep:
    """Creates a shard's batch, or makes the live calls of a canary."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._api = api
        self._creator = BatchCreator(settings)
        self._resolver = LostCallResolver(settings)
        self._canary = Canary(settings)

    def run(self, work: ClaimedShard) -> StepResult:
        """Do what the shard's record calls for.

        Raises `anthropic.APIError` if this run has certainly created no batch.
        """
        if work.shard.state == ShardState.SENDING:
            result = self._resolve(work)
            if result is not None:
                return result
        return self._send(work) if work.shard.state == ShardState.PLANNED else created(work)

    def _resolve(self, work: ClaimedShard) -> StepResult | None:
        """Resolve a call whose response is not known. None: the record has the outcome."""
        if work.shard.sent_ms:
            return self._resolver.run(work, self._batches_api(work))
        # The last bytes were not sent, and cannot be any more: without its claim, the worker of
        # that call cannot write `sent_ms`, which it must do first.
        work.write(without_call(work.shard))
        return None

    def _send(self, work: ClaimedShard) -> StepResult:
        if work.cancel:
            return self._cancel(work)
        if work.paused:
            if not work.shard.live:  # a canary may have spent a part of what it has reserved
                release_reservations(work)
            return Parked(f"the job is paused: {work.paused.get('type')}")
        if work.shard.live:
            try:
                return self._canary.run(work, self._batches_api(work))
            except ChunkMissing as error:
                return requests_missing(error)
        [waiting_for_canary] = work.job.fields("waiting_for_canary")
        if waiting_for_canary:
            return RetryIn(
                _CANARY_WAIT_S, "waiting for the canary: the first requests as live calls"
            )
        try:
            waiting = gather(work)
        except ChunkMissing as error:
            return requests_missing(error)
        return waiting or self._creator.run(work, self._batches_api(work))

    def _cancel(self, work: ClaimedShard) -> StepResult:
        """Collect a shard that was never sent: all its requests are canceled."""
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

    def _batches_api(self, work: ClaimedShard) -> BatchesApi:
        return BatchesApi(self._api, work.job.headers(), work.shard.betas)
