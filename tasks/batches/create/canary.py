"""The canary: sends the first requests of a job as live calls, before all others.

Each answer is stored as it arrives, in the form of a batch's result line. So if the worker dies,
the next one repeats only the calls that were under way.

Each call counts: before it is sent, the record has it, with the most that it can cost. A call that
the API refuses costs nothing and is taken back. One that was sent and has no complete answer (a
timeout, a broken connection, an HTML page, a worker that died) stays, and after `_MAX_CALLS` of
them for one request the job is paused.

If the API rejects a request, the job is paused with the API's message, once: the error is stored as
the request's result, and a job that is resumed is not paused for further rejected requests. If the
API rejects a call because of the account, the job is paused as by any other step, and the call is
made again when the job is resumed.
"""

import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final, Literal

import anthropic
import httpx2
import orjson

from config.settings import WorkerSettings
from penstock import json_text
from penstock.batches.notices import PauseReason
from penstock.batches.shard import Shard, ShardState
from penstock.batches.unreadable import errored
from penstock.batches.wire import INDEX, LINE_HEAD, LINE_TAIL, RESULT, wire_id
from penstock.input_bound import input_bound
from penstock.spool.chunks import lines_in, pack
from tasks.api.batches import BatchesApi
from tasks.api.client import ApiProblem, UnexpectedResponse, idle_timeout, problem_of
from tasks.api.live_message import CallFailed
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create.batch_creator import COST_WAIT_S, created, new_nonce
from tasks.batches.limits import cost_cap
from tasks.batches.limits.prices import actual_cost, most_usd
from tasks.batches.result_lines import read_line
from tasks.batches.step_result import Next, Parked, RetryIn, StepResult
from tasks.batches.stored_requests import requests_of

#: Maximum number of live calls that one canary makes at the same time.
_MAX_CONCURRENT: Final = 4

#: Maximum live calls for one request that get no complete answer; then the job is paused.
_MAX_CALLS: Final = 2

#: Errors after which the call may have been received, and so paid for.
_API_ERRORS: Final = (anthropic.APIError, httpx2.HTTPError, UnexpectedResponse)
#: Statuses of at least 500 with which a call is refused at once.
_REFUSALS: Final = frozenset({501, 503, 529})

#: HTTP statuses with which the API rejects a request itself. In a batch they would be its result.
_REQUEST_STATUSES: Final = frozenset({400, 404, 413, 422})
#: Parts of messages that are about the account all the same: the API has no status for them.
_ACCOUNT_PHRASES: Final = ("credit balance", "spend limit", "usage limit")


class Canary:
    """Makes the live calls of a canary's shard."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._timeout = idle_timeout(settings)
        self._total_s = settings.stream_total_timeout_s

    def run(self, work: ClaimedShard, api: BatchesApi) -> StepResult:
        """Make the calls that have no answer yet. Raises `anthropic.APIError`."""
        reservation = cost_cap.reserve(work)
        if isinstance(reservation, dict):
            return Parked(reservation["message"], pause=reservation)
        if reservation == "wait":
            return RetryIn(COST_WAIT_S, "waiting for the actual cost of other shards")
        answered = _resume(work)
        if _exhausted(work):
            return _pause_unanswered(work, "a worker was lost during each of them")
        # The operator has resumed the job after a rejected request: further ones do not pause it.
        ignore_rejected = bool(work.shard.counts.errored)
        rejected, errors = self._make_calls(
            work, api, _requests(work, answered), ignore_rejected=ignore_rejected
        )
        if api.simulated:
            work.write(work.shard.evolve(simulated=True))
        if work.cancel:
            return self.cancel(work)
        if errors and _exhausted(work):
            return _pause_unanswered(work, f"the last: {problem_of(errors[-1]).message}")
        if errors:
            raise errors[0]
        if rejected:
            why = {**rejected[0].as_error(), "type": PauseReason.CANARY_FAILED}
            return Parked(f"the canary failed: {rejected[0]}", pause=why)
        return self._finish(work)

    def cancel(self, work: ClaimedShard) -> Next:
        """End a canary of which some calls were made. The other requests are canceled."""
        answered = _resume(work)
        for index, _ in _requests(work, answered):
            _store_result(work, index, b'{"type":"canceled"}')
        return self._finish(work)

    def _make_calls(
        self,
        work: ClaimedShard,
        api: BatchesApi,
        todo: Iterator[tuple[int, bytes]],
        *,
        ignore_rejected: bool,
    ) -> tuple[list[ApiProblem], list[Exception]]:
        """Make calls until all have an answer, or one is rejected or fails.

        Calls that are under way are always awaited. Returns the problems of rejected requests, and
        the errors of calls that failed for another reason. Raises what is not an error of the API.
        """
        rejected: list[ApiProblem] = []
        errors: list[Exception] = []
        pending: dict[Future[bytes], tuple[int, bytes]] = {}
        with ThreadPoolExecutor(_MAX_CONCURRENT) as pool:
            while True:
                while not (rejected or errors or work.cancel) and len(pending) < _MAX_CONCURRENT:
                    index, params = next(todo, (-1, b""))
                    if index < 0:
                        break
                    work.write(_with_calls(work.shard, index, params, 1))
                    call = pool.submit(
                        api.message, params, timeout=self._timeout, total_s=self._total_s
                    )
                    pending[call] = index, params
                if not pending:
                    break
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    try:
                        problems = _record_answer(work, *pending.pop(future), future)
                        rejected += [] if ignore_rejected else problems
                    except Exception as error:  # store the other answers first: they are paid for
                        errors.append(error)
        others = [error for error in errors if not isinstance(error, _API_ERRORS)]
        if others:
            raise others[0]
        return rejected, errors

    def _finish(self, work: ClaimedShard) -> Next:
        """Record that every request has a result, and wake the job's other shards."""
        shard = work.shard
        collected = shard.evolve(
            state=ShardState.COLLECTED,
            results=shard.live_results,
            live_results="",
            collected_ms=work.job.now_ms(),
        )
        work.advance(
            "create",
            collected,
            left=-1,
            spent=_spent(shard),
            waiting_for_canary="",
        )
        others = tuple(
            each.number for each in work.job.shards() if each.state == ShardState.PLANNED
        )
        return Next(created(work).summary, wake=others)


def _resume(work: ClaimedShard) -> set[int]:
    """Take over the answers of an earlier claim; returns the indexes that have one.

    Each claim writes to chunks of its own, since a worker that has lost its claim may still write.
    """
    shard, store = work.shard, work.job.store()
    chunks = list(store.read(shard.live_results, shard.result_chunks)) if shard.live_results else []
    name = f"results-{shard.number}-{work.lease.epoch}"
    if shard.live_results != name:
        for index, chunk in enumerate(chunks):
            store.add(name, index, chunk)
        work.write(shard.evolve(live_results=name, nonce=shard.nonce or new_nonce()))
        if shard.live_results:
            store.remove([shard.live_results])
    store.refresh_ttl(work.shard.chunk_names, work.settings.batch_ttl_s)
    return {int(line[INDEX]) for line in lines_in(chunks)}


def _requests(work: ClaimedShard, answered: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the index and the params of each request that has no answer."""
    requests = enumerate(requests_of(work.job.store(), work.shard))
    return ((index, request) for index, request in requests if index not in answered)


def _record_answer(
    work: ClaimedShard, index: int, params: bytes, future: Future[bytes]
) -> list[ApiProblem]:
    """Store the answer to a call, or the error of a rejected request.

    Returns the problem of a rejected request. Raises the error of a call that failed otherwise.
    """
    try:
        message = future.result()
    except _API_ERRORS as error:
        problem = problem_of(error)
        if not _is_about_the_request(problem):
            if not _may_be_paid(error, problem):
                work.write(_with_calls(work.shard, index, params, -1))
            raise
        result = errored(problem.type, problem.message)
        _store_result(work, index, json_text.dumps(result), params)
        return [problem]
    except Exception:  # the SDK has made no call, for example without credentials
        work.write(_with_calls(work.shard, index, params, -1))
        raise
    _store_result(work, index, b'{"type":"succeeded","message":%s}' % message, params)
    return []


def _may_be_paid(error: Exception, problem: ApiProblem) -> bool:
    """Whether a call without an answer can have produced tokens."""
    if isinstance(error, CallFailed):
        return not error.refused
    if problem.status:
        return problem.status >= 500 and problem.status not in _REFUSALS
    return problem.sent


def _with_calls(shard: Shard, index: int, params: bytes, added: int) -> Shard:
    """Return the record after a call is about to be sent (1), or is answered or refused (-1)."""
    fields = json_text.loads(params)
    tokens, full = input_bound(fields, params)
    most = most_usd(fields["model"], tokens, fields["max_tokens"], full) or 0.0
    calls = {**shard.live_calls, str(index): shard.live_calls.get(str(index), 0) + added}
    return shard.evolve(
        live_calls={name: count for name, count in calls.items() if count > 0},
        live_calls_cost=max(0, shard.live_calls_cost + added * math.ceil(most * 1_000_000)),
    )


def _exhausted(work: ClaimedShard) -> bool:
    return any(count >= _MAX_CALLS for count in work.shard.live_calls.values())


def _pause_unanswered(work: ClaimedShard, fault: str) -> Parked:
    """Pause the job; once it is resumed, the calls are counted from the beginning."""
    shard = work.shard
    index, count = max(shard.live_calls.items(), key=lambda item: item[1])
    pause = {
        "type": PauseReason.CANARY_UNANSWERED,
        "message": f"{count} live calls for request {int(index) + 1} of the canary got no complete "
        f"answer; {fault}. All calls without an answer can have cost up to "
        f"{shard.live_calls_cost / 1_000_000:.4f} USD",
    }
    # Both by one write: a worker that dies here must not make two more calls.
    recorded = {**pause, "shard": shard.number, "at_ms": work.job.now_ms()}
    work.write(shard.evolve(live_calls={}), paused=orjson.dumps(recorded))
    return Parked("calls of the canary got no complete answer", pause=pause)


def _spent(shard: Shard) -> int | Literal["all"]:
    """Return what the canary has cost: its answers, and at most the calls without an answer."""
    answers = actual_cost(shard.usage, live=True)
    return answers if answers == "all" else answers + shard.live_calls_cost


def _is_about_the_request(problem: ApiProblem) -> bool:
    message = problem.message.lower()
    return problem.status in _REQUEST_STATUSES and not any(
        phrase in message for phrase in _ACCOUNT_PHRASES
    )


def _store_result(work: ClaimedShard, index: int, result: bytes, params: bytes = b"") -> None:
    """Store and count a result line. Raises `Fenced`, `UnexpectedResponse`.

    ``params``: of the call that it answers; empty: there was none.
    """
    shard = _with_calls(work.shard, index, params, -1) if params else work.shard
    wire = wire_id(shard.nonce, index).encode()
    line = read_line(LINE_HEAD + wire + RESULT + result + LINE_TAIL)
    if line is None:
        raise UnexpectedResponse("the response to a live call is not a message")
    for chunk in pack([line.stored]):
        work.job.store().add(shard.live_results, shard.result_chunks, chunk)
    kind, counts = line.outcome.kind, shard.counts
    changed = {"processing": counts.processing - 1, kind: getattr(counts, kind) + 1}
    usage, errors = dict(shard.usage), Counter(shard.errors)
    if kind == "succeeded":
        usage[line.model] = dict(Counter(usage.get(line.model, {})) + Counter(line.tokens))
    elif kind == "errored":
        errors[line.outcome.error_type] += 1
    work.write(
        shard.evolve(
            result_chunks=shard.result_chunks + 1,
            result_lines=shard.result_lines + 1,
            counts=replace(counts, **changed),
            usage=usage,
            errors=dict(errors),
            failures=0,
        )
    )
