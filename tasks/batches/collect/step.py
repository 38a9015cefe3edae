"""The collect step: downloads, verifies and stores the results of a batch.

Results are staged as they arrive: stored under a name that only this claim uses. When the download
is complete, one write of the shard's record names them, and only then do they count. So a worker
that dies or is fenced leaves nothing that readers could see. Requests that are retried become a
shard of the next round, by the same write.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any, Final, Literal

import anthropic
import httpx2
import orjson
import redis

from config.settings import WorkerSettings
from penstock import json_text
from penstock.batches.notices import Alert, PauseReason
from penstock.batches.shard import Shard, ShardState
from penstock.batches.wire import is_wire_id
from penstock.clock import now_ms
from penstock.jitter import jitter
from penstock.spool.writer import BackgroundWriter
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
from tasks.batches.limits.prices import Usage, actual_cost, bound_usd
from tasks.batches.poll import not_found
from tasks.batches.result_lines import Outcome, blocks
from tasks.batches.step_result import Next, Parked, Redirect, RetryIn, StepResult
from tasks.batches.unavailable import collect_without

#: Maximum downloads that do not match the requests. After one more, the job is paused.
MAX_REFETCHES: Final = 20
#: Downloads, over some minutes, after which a request without a line in the results is errored: the
#: other lines of the batch do not wait for it. If the job is canceled, also a download that is
#: interrupted each time is taken as it is.
MAX_INCOMPLETE: Final = 8
#: Downloads that have to show the same before it is believed that a batch has extra or unreadable
#: lines, or that all of its lines belong to another create call.
REFETCHES_TO_CONFIRM: Final = 2

#: Milliseconds from a batch's creation for which the API keeps its results: 29 days.
RESULTS_LIVE_MS: Final = 29 * 86_400_000

#: Maximum number of batches whose duration is kept for estimates, and seconds until they expire.
_HISTORY: Final = 200
_HISTORY_S: Final = 90 * 86_400


class _ResultsMismatch(Exception):
    """The downloaded results do not match the requests."""


class _ResultsOfAnotherCall(Exception):
    """All of the downloaded results belong to another create call."""

    def __init__(self, nonce: str) -> None:
        super().__init__(nonce)
        self.nonce = nonce  #: of that call; any text if another program made it


class CollectStep:
    """Collects the results of a shard whose batch has ended."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._settings = settings
        self._api = api
        self._timeout = idle_timeout(settings)

    def run(self, work: ClaimedShard) -> StepResult:
        """Collect the results, or return when and where to try again."""
        if work.shard.state != ShardState.ENDED:
            return _collected(work.shard)
        try:
            return self._collect(work, can_retry=not work.cancel)
        except RequestsMissing as error:
            work.alert(Alert.REQUESTS_MISSING, f"failed requests cannot be retried: {error}")
            return self._collect(work, can_retry=False)
        except anthropic.NotFoundError:
            return self._no_results(work)

    def _collect(self, work: ClaimedShard, *, can_retry: bool) -> StepResult:
        shard = work.shard
        try:
            with Staging(work) as staging:
                tally = ResultTally(shard.nonce, shard.requests)
                self._download(work, staging, tally, can_retry=can_retry)
                if tally.retried:
                    staging.stage_retry_shard(shard, tally.seen)
                if tally.failed:
                    staging.stage_failed_requests(shard, tally.seen)
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
        """Stage the final results, one for each request, and count them in the tally.

        Raises `_ResultsMismatch`, `_ResultsOfAnotherCall`, `Fenced`.
        """
        shard, limit = work.shard, self._settings.max_retry_rounds

        def decide_outcome(outcome: Outcome) -> RetryDecision:
            return decide(outcome, round=shard.round, max_retry_rounds=limit, can_retry=can_retry)

        classifier = ResultClassifier(tally, decide_outcome)
        checked = time.monotonic()
        with (
            self._batches_api(work).results(shard.batch_id, timeout=self._timeout) as pieces,
            BackgroundWriter(staging.store) as writer,
        ):
            download = _Download(pieces)
            for block in blocks(download, begin=classifier.begin):
                writer.put(staging.results, classifier.classify(block))
                if tally.of_another_call and _may_be_rejected(shard, tally):
                    raise _ResultsOfAnotherCall(tally.first_unknown_id.partition("-")[0])
                if time.monotonic() - checked > self._settings.lease_ms / 3000:
                    work.lease.renew()  # raises if another worker collects the shard now
                    checked = time.monotonic()
            _verify(tally, download.problem, shard.refetches, canceled=bool(work.cancel))
            if tally.missing:
                work.alert(Alert.RESULTS_INCOMPLETE, f"{shard.batch_id}: {tally}")
                for block in blocks(line + b"\n" for line in tally.missing_lines(shard.batch_id)):
                    writer.put(staging.results, block)
        staging.chunks = writer.chunks[staging.results]

    def _commit(self, work: ClaimedShard, staging: Staging, tally: ResultTally) -> Next:
        """Make the staged results, and the retry shard, those of the job by one write."""
        shard, usage = work.shard, tally.tokens()
        if tally.extra_lines:
            work.alert(
                Alert.RESULTS_SUPERFLUOUS, f"{shard.batch_id}: {tally}; extra lines are ignored"
            )
        if tally.unreadable_lines:
            work.alert(Alert.RESULTS_UNREADABLE, f"{shard.batch_id}: {tally}")
        changed = shard.evolve(
            state=ShardState.COLLECTED,
            confirmed=True,
            failures=0,
            results=staging.results if staging.chunks else "",
            result_chunks=staging.chunks,
            result_lines=shard.requests - tally.retried,
            failed_requests=staging.failed if staging.failed_chunks else "",
            failed_chunks=staging.failed_chunks,
            collected_ms=now_ms(),
            counts=tally.counts(),
            retried=tally.retried,
            usage=usage,
            errors=dict(tally.errors),
        )
        pause = self._pause_reason(work, tally)
        meta: dict[str, Any] = {"paused": json_text.dumps(pause)} if pause else {}
        staging.commit()
        work.advance(
            "collect",
            changed,
            also=staging.children,
            left=-1 + len(staging.children),
            spent=_spent(shard, tally, usage),
            **meta,
        )
        staging.remove_requests(shard)
        self._record_duration(work)
        wake = () if pause else tuple(child.number for child in staging.children)
        return Next(_collected(changed).summary, wake=wake, pause=pause)

    def _pause_reason(self, work: ClaimedShard, tally: ResultTally) -> dict[str, Any] | None:
        """Return why the job has to be paused; None: no reason, or nothing left to send."""
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
        """Note how long the batch took, for estimates, and make sure its slot is free."""
        shard, key = work.shard, self._settings.keys.history
        took_ms = max(shard.ended_ms - shard.created_ms, 0)
        entry = {"model": shard.model, "requests": shard.requests, "ms": took_ms}
        with work.redis.pipeline(transaction=True) as pipe:
            pipe.lpush(key, orjson.dumps(entry))
            pipe.ltrim(key, 0, _HISTORY - 1)
            pipe.expire(key, _HISTORY_S)
            pipe.hdel(self._settings.keys.active_batches, work.member)
            with contextlib.suppress(redis.RedisError):  # the results are stored already
                pipe.execute()

    def _refetch(self, work: ClaimedShard, what: str) -> RetryIn | Parked:
        """Download again later. After `MAX_REFETCHES`, pause the job."""
        shard, settings = work.shard, self._settings
        count = shard.refetches + 1
        message = f"results of {shard.batch_id}: {what}"
        if count > MAX_REFETCHES and not work.cancel:  # a canceled job cannot be paused
            work.write(shard.evolve(refetches=0))
            return Parked(
                message, pause={"type": PauseReason.RESULTS_INCOMPLETE, "message": message}
            )
        work.write(shard.evolve(refetches=count))
        return RetryIn(wait_s(count, None, settings.api_retry_max_wait_s, jitter()), message)

    def _reject(self, work: ClaimedShard) -> StepResult:
        """Search for the shard's batch again: this one belongs to another create call.

        If the API named the batch in its response, more downloads have to show the same first.
        """
        shard = work.shard
        if shard.confirmed and shard.refetches < REFETCHES_TO_CONFIRM:
            return self._refetch(work, "every line is of another create call")
        restart_search(work, with_rejected_batch(shard))
        return Redirect(f"{shard.batch_id} is not the batch of this shard")

    def _no_results(self, work: ClaimedShard) -> StepResult:
        """Find out why the API has no results of the batch."""
        shard = work.shard
        try:
            batch = self._batches_api(work).retrieve(shard.batch_id, timeout=self._timeout)
        except anthropic.NotFoundError as error:
            return not_found(work, self._api, error)
        shard = shard.evolve(not_found_count=0, not_found_ms=0)
        if batch.processing_status != "ended":
            work.write(shard.evolve(state=ShardState.IN_PROGRESS))
            return Redirect(f"{shard.batch_id} is {batch.processing_status}")
        if batch.archived_at or now_ms() - shard.created_ms > RESULTS_LIVE_MS:
            message = f"the API has removed the results of {shard.batch_id}"
            return collect_without(work, Alert.RESULTS_EXPIRED, message, fatal=True)
        if work.cancel and shard.refetches >= MAX_INCOMPLETE:
            message = f"the API does not return the results of {shard.batch_id}"
            return collect_without(work, Alert.RESULTS_INCOMPLETE, message, fatal=False)
        return self._refetch(work, "not available yet")

    def _batches_api(self, work: ClaimedShard) -> BatchesApi:
        return BatchesApi(self._api, work.job.headers())


def _switch_to_earlier_call(work: ClaimedShard, nonce: str) -> Redirect:
    """Accept a batch of an earlier call of this shard, which was abandoned too early.

    Its results are paid for and answer the same requests.
    """
    # If the later call has created a batch, or will, that one is the duplicate now.
    size_locks.abandon(work)
    work.write(with_earlier_call(work.shard, nonce))
    return Redirect(f"{work.shard.batch_id} is from an earlier create call of this shard")


def _may_be_rejected(shard: Shard, tally: ResultTally) -> bool:
    """Whether results that belong to no request show that the batch is not the shard's.

    A batch that the API named in its response is not: custom_ids of a form that no create call
    uses have been changed on the way, and a second batch would be paid for as well.
    """
    return not shard.confirmed or is_wire_id(tally.first_unknown_id)


def _verify(tally: ResultTally, problem: str, refetches: int, *, canceled: bool) -> None:
    """Check a download. Raises `_ResultsMismatch` if another one may be better.

    ``problem``: why the download was interrupted; empty: it is whole. Extra and unreadable lines
    are accepted once `REFETCHES_TO_CONFIRM` downloads had some, and missing ones once
    `MAX_INCOMPLETE` downloads were incomplete. A download without a single result is not one of
    results: it is accepted only for a canceled job.
    """
    accepted = refetches >= MAX_INCOMPLETE and (canceled or (tally.lines and not problem))
    if problem and not accepted:
        raise _ResultsMismatch(problem)
    odd = tally.extra_lines or tally.unreadable_lines
    if (tally.missing and not accepted) or (odd and refetches < REFETCHES_TO_CONFIRM):
        raise _ResultsMismatch(str(tally))


def _spent(shard: Shard, tally: ResultTally, usage: Usage) -> int | Literal["all"]:
    """Return what the shard has cost, in millionths of a dollar.

    A request whose result is missing or unreadable counts with the average of the most that the
    requests of the shard can have cost: the bound of a single one is not recorded.
    """
    spent, unknown = actual_cost(usage, live=shard.live), tally.unknown_costs
    most = bound_usd(shard.size_by_model, live=shard.live)
    if spent == "all" or not unknown or most is None:
        return spent if not unknown else "all"
    return spent + math.ceil(most * 1_000_000 * unknown / shard.requests)


class _Download:
    """The pieces of a download, up to its end or to where it is interrupted."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.problem = ""  #: why it was interrupted; empty: it was not

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces
        except httpx2.HTTPError as error:
            self.problem = f"the download was interrupted: {type(error).__name__}"


def _collected(shard: Shard) -> Next:
    counts = orjson.loads(orjson.dumps(shard.counts))
    return Next({"kind": "batch", "batch_id": shard.batch_id, "counts": counts})
