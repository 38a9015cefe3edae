"""The collect step: the results of a batch, verified and stored, complete or not at all.

They are stored under a name of this claim while they come, and one write of the record makes them
the shard's: a collector that dies, or is fenced off, leaves nothing that counts. Requests that are
tried again become a shard of the next round by the same write.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

import anthropic
import httpx2
import orjson
import redis

from config.settings import WorkerSettings
from penstock.batches.notices import Alert, PauseReason
from penstock.batches.shard import Shard, ShardState
from penstock.clock import now_ms
from penstock.jitter import jitter
from penstock.spool.storing import StoringThread
from tasks.api.batches import BatchesApi
from tasks.api.client import idle_timeout
from tasks.api.retry import wait_s
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.collect.classifier import ResultClassifier
from tasks.batches.collect.retry_policy import RetryDecision, decide, reason_to_pause
from tasks.batches.collect.staging import RequestsMissing, Staging
from tasks.batches.collect.tally import ResultTally
from tasks.batches.create import size_locks
from tasks.batches.create.lost_call import restart_search
from tasks.batches.create.reconcile import with_earlier_call, with_rejected_batch
from tasks.batches.limits.prices import actual_cost
from tasks.batches.poll import not_found
from tasks.batches.result_lines import Outcome, blocks
from tasks.batches.step_result import Next, Parked, Redirect, RetryIn, StepResult
from tasks.batches.unavailable import collect_without

#: Downloads that do not match the requests before somebody is asked.
MAX_REFETCHES: Final = 20
#: Downloads of a batch that has lines too many, or only lines of another, before that is believed.
REFETCHES_TO_CONFIRM: Final = 2

#: The API keeps results for 29 days from a batch's creation.
RESULTS_LIVE_MS: Final = 29 * 86_400_000

#: How long batches took: entries that are kept, and seconds they live.
_HISTORY: Final = 200
_HISTORY_S: Final = 90 * 86_400


class _ResultsMismatch(Exception):
    """The download does not match the requests."""


class _ResultsOfAnotherCall(Exception):
    """The results belong to another create call."""

    def __init__(self, nonce: str) -> None:
        super().__init__(nonce)
        self.nonce = nonce  #: of that call, if it is one of ours


class CollectStep:
    """Collects the results of a shard whose batch has ended."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._settings = settings
        self._api = api
        self._timeout = idle_timeout(settings)

    def run(self, work: ClaimedShard) -> StepResult:
        """Download, verify and store; or tell when to try again."""
        if work.shard.state != ShardState.ENDED:
            return _collected(work.shard)
        try:
            return self._collect(work, can_retry=not work.cancel)
        except RequestsMissing as error:
            work.alert(Alert.REQUESTS_MISSING, f"what failed cannot be sent again: {error}")
            return self._collect(work, can_retry=False)
        except anthropic.NotFoundError:
            return self._no_results(work)

    def _collect(self, work: ClaimedShard, *, can_retry: bool) -> StepResult:
        shard = work.shard
        try:
            with Staging(work) as staging:
                tally = ResultTally(shard.nonce, shard.requests)
                self._download(work, staging, tally, can_retry=can_retry)
                _verify(tally, shard.refetches)
                if tally.retried:
                    staging.stage_retry_shard(shard, tally.seen)
                return self._commit(work, staging, tally)
        except _ResultsMismatch as error:
            return self._refetch(work, str(error))
        except _ResultsOfAnotherCall as error:
            if error.nonce in shard.abandoned_nonces:
                return _switch_to_earlier_call(work, error.nonce)
            return self._reject(work)

    def _download(
        self, work: ClaimedShard, staging: Staging, tally: ResultTally, *, can_retry: bool
    ) -> None:
        """Store the lines that are final, enter all of them into the account."""
        shard, limit = work.shard, self._settings.max_retry_rounds

        def decide_outcome(outcome: Outcome) -> RetryDecision:
            return decide(outcome, round=shard.round, max_retry_rounds=limit, can_retry=can_retry)

        classifier = ResultClassifier(tally, decide_outcome)
        checked = time.monotonic()
        with (
            self._calls(work).results(shard.batch_id, timeout=self._timeout) as pieces,
            StoringThread(staging.store, staging.results) as storing,
        ):
            for block in blocks(_complete(pieces)):
                storing.put(classifier.classify(block))
                if tally.of_another_call:
                    raise _ResultsOfAnotherCall(tally.first_unknown_id.partition("-")[0])
                if time.monotonic() - checked > self._settings.lease_ms / 3000:
                    work.lease.renew()  # somebody else may be at it meanwhile
                    checked = time.monotonic()
            staging.chunks = storing.finish()

    def _commit(self, work: ClaimedShard, staging: Staging, tally: ResultTally) -> Next:
        shard, usage = work.shard, tally.tokens()
        if tally.extra_lines:
            work.alert(Alert.RESULTS_SUPERFLUOUS, f"{shard.batch_id}: {tally}; left out")
        changed = shard.evolve(
            state=ShardState.COLLECTED,
            confirmed=True,
            failures=0,
            results=staging.results if staging.chunks else "",
            result_chunks=staging.chunks,
            result_lines=shard.requests - tally.retried,
            collected_ms=now_ms(),
            counts=tally.counts(),
            retried=tally.retried,
            usage=usage,
            errors=dict(tally.errors),
        )
        pause = self._pause_reason(work, tally)
        meta: dict[str, Any] = {"paused": orjson.dumps(pause)} if pause else {}
        staging.commit()
        work.advance(
            "collect",
            changed,
            also=staging.children,
            left=-1 + len(staging.children),
            spent=actual_cost(usage, live=shard.live),
            **meta,
        )
        staging.remove_requests(shard)
        self._record_duration(work)
        wake = () if pause else tuple(child.number for child in staging.children)
        return Next(_collected(changed).summary, wake=wake, pause=pause)

    def _pause_reason(self, work: ClaimedShard, tally: ResultTally) -> dict[str, Any] | None:
        """Why nothing more is to be sent, if there is a reason and anything to send."""
        if work.cancel or work.paused:
            return None
        reason = reason_to_pause(
            tally.pause,
            tally.errors,
            tally.samples,
            work.shard,
            self._settings.circuit_breaker_ratio,
        )
        if reason is None:
            return None
        to_send = tally.retried or any(
            each.state == ShardState.PLANNED for each in work.job.shards()
        )
        if not to_send:
            return None
        return {**reason, "shard": work.shard.number, "at_ms": now_ms()}

    def _record_duration(self, work: ClaimedShard) -> None:
        """Note how long the batch took, for the estimates of later ones."""
        shard, key = work.shard, self._settings.keys.history
        took_ms = max(shard.ended_ms - shard.created_ms, 0)
        entry = {"model": shard.model, "requests": shard.requests, "ms": took_ms}
        with work.redis.pipeline(transaction=True) as pipe:
            pipe.lpush(key, orjson.dumps(entry))
            pipe.ltrim(key, 0, _HISTORY - 1)
            pipe.expire(key, _HISTORY_S)
            pipe.hdel(self._settings.keys.active_batches, work.member)
            with contextlib.suppress(redis.RedisError):  # the results are safe
                pipe.execute()

    def _refetch(self, work: ClaimedShard, what: str) -> RetryIn | Parked:
        """Download again later; ask somebody if that has been of no use for long."""
        shard, settings = work.shard, self._settings
        count = shard.refetches + 1
        words = f"results of {shard.batch_id}: {what}"
        if count > MAX_REFETCHES:
            work.write(shard.evolve(refetches=0))
            if not work.cancel:
                pause = {"type": PauseReason.RESULTS_INCOMPLETE, "message": words}
                return Parked(words, pause=pause)
            work.alert(Alert.RESULTS_INCOMPLETE, words)
        else:
            work.write(shard.evolve(refetches=count))
        wait = wait_s(
            count,
            None,
            settings.api_retry_max_wait_s,
            jitter(),
        )
        return RetryIn(wait, words)

    def _reject(self, work: ClaimedShard) -> StepResult:
        """The batch is not ours, whoever named it: look for ours again."""
        shard = work.shard
        if shard.confirmed and shard.refetches < REFETCHES_TO_CONFIRM:
            return self._refetch(work, "every line is of another batch")
        restart_search(work, with_rejected_batch(shard))
        return Redirect(f"{shard.batch_id} is not the batch of this shard")

    def _no_results(self, work: ClaimedShard) -> StepResult:
        """The API has no results of the batch: why?"""
        shard = work.shard
        try:
            batch = self._calls(work).retrieve(shard.batch_id, timeout=self._timeout)
        except anthropic.NotFoundError as error:
            return not_found(work, self._api, error)
        if batch.processing_status != "ended":
            work.write(shard.evolve(state=ShardState.IN_PROGRESS))
            return Redirect(f"{shard.batch_id} is {batch.processing_status}")
        if batch.archived_at or now_ms() - shard.created_ms > RESULTS_LIVE_MS:
            message = f"the API has removed the results of {shard.batch_id}"
            return collect_without(work, Alert.RESULTS_EXPIRED, message, fatal=True)
        return self._refetch(work, "not available yet")

    def _calls(self, work: ClaimedShard) -> BatchesApi:
        return BatchesApi(self._api, work.job.headers())


def _switch_to_earlier_call(work: ClaimedShard, nonce: str) -> Redirect:
    """The batch is of an earlier call of this shard, which was given up too soon: its results are
    paid for, and are as good."""
    # What the later call has made, or will make, is the late twin now.
    size_locks.abandon(work)
    work.write(with_earlier_call(work.shard, nonce))
    return Redirect(f"{work.shard.batch_id} is of an earlier call of this shard")


def _verify(tally: ResultTally, refetches: int) -> None:
    """Raises `_ResultsMismatch` if another download may differ."""
    if tally.missing or (tally.extra_lines and refetches < REFETCHES_TO_CONFIRM):
        raise _ResultsMismatch(str(tally))


def _complete(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The download. Raises `_ResultsMismatch` where it breaks off."""
    try:
        yield from pieces
    except httpx2.HTTPError as error:
        raise _ResultsMismatch(f"the download broke off: {type(error).__name__}") from error


def _collected(shard: Shard) -> Next:
    counts = orjson.loads(orjson.dumps(shard.counts))
    return Next({"kind": "batch", "batch_id": shard.batch_id, "counts": counts})
