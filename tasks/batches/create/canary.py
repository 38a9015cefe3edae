"""The canary: the first requests of a job as live calls, before the bulk of it is sent.

Each answer is stored as it comes, as a batch's result line, so that a worker that dies repeats
only the calls that were pending. A request that the API rejects pauses the job, once, with its
words. Its error is kept as its result: resumed nevertheless, the job goes on behind it and is not
paused for the next one. A refusal that is about the account, not the request, pauses the job like
any other, and the call is made again when it is resumed.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final

import anthropic
import httpx2
import orjson

from penstock.batches.notices import PauseReason
from penstock.batches.shard import ShardState
from penstock.batches.wire import WIRE_ID, wire_id
from penstock.spool.chunks import lines_of, pack
from tasks.api.batches import BatchesApi
from tasks.api.client import ApiProblem, UnexpectedResponse, problem_of
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create.batch_creator import COST_WAIT_S, created, new_nonce
from tasks.batches.limits import cost_cap
from tasks.batches.limits.prices import actual_cost
from tasks.batches.result_lines import ID_START, read_line
from tasks.batches.step_result import Next, Parked, RetryIn, StepResult

#: Live calls of a canary that are out at the same time.
_MAX_CONCURRENT: Final = 4

#: Refusals that are about the request itself: a batch would have them as its result.
_REQUEST_STATUSES: Final = frozenset({400, 404, 413, 422})
#: … unless they say this: the API has no status of its own for it.
_ACCOUNT_PHRASES: Final = ("credit balance", "spend limit", "usage limit")


class Canary:
    """Makes the calls of a live shard."""

    def run(self, work: ClaimedShard, api: BatchesApi) -> StepResult:
        """Make the calls that have no answer yet. Raises `anthropic.APIError`."""
        reservation = cost_cap.reserve(work)
        if isinstance(reservation, dict):
            return Parked(reservation["message"], pause=reservation)
        if reservation == "wait":
            return RetryIn(COST_WAIT_S, "waiting until other costs are settled")
        answered = _resume(work)
        # Resumed though a request was rejected: the others are not asked about again.
        ignore_rejected = bool(work.shard.counts.errored)
        rejected = self._call(work, api, _requests(work, answered), ignore_rejected=ignore_rejected)
        if work.cancel:
            return self.cancel(work)
        if rejected:
            why = {**rejected[0].as_error(), "type": PauseReason.CANARY_FAILED}
            return Parked(f"the canary failed: {rejected[0]}", pause=why)
        return self._finish(work)

    def cancel(self, work: ClaimedShard) -> Next:
        """End a canary of which some calls were made: the rest counts as canceled."""
        answered = _resume(work)
        for index, _ in _requests(work, answered):
            _store_result(work, index, b'{"type":"canceled"}')
        return self._finish(work)

    def _call(
        self,
        work: ClaimedShard,
        api: BatchesApi,
        todo: Iterator[tuple[int, bytes]],
        *,
        ignore_rejected: bool,
    ) -> list[ApiProblem]:
        """Make calls until all are answered, or one is rejected. Those that are out are awaited."""
        rejected: list[ApiProblem] = []
        errors: list[Exception] = []
        pending: dict[Future[bytes], int] = {}
        with ThreadPoolExecutor(_MAX_CONCURRENT) as pool:
            while True:
                while not (rejected or errors or work.cancel) and len(pending) < _MAX_CONCURRENT:
                    index, params = next(todo, (-1, b""))
                    if index < 0:
                        break
                    pending[pool.submit(api.message, params)] = index
                if not pending:
                    break
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    try:
                        problems = _record_answer(work, pending.pop(future), future)
                        rejected += [] if ignore_rejected else problems
                    except Exception as error:  # the others that are out are paid for as well
                        errors.append(error)
        if errors:
            raise errors[0]
        return rejected

    def _finish(self, work: ClaimedShard) -> Next:
        """All calls are answered: the rest of the job may go."""
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
            spent=actual_cost(shard.usage, live=True),
            waiting_for_canary="",
        )
        others = tuple(
            each.number for each in work.job.shards() if each.state == ShardState.PLANNED
        )
        return Next(created(work).summary, wake=others)


def _resume(work: ClaimedShard) -> set[int]:
    """Take the answers of earlier claims over; returns which requests have one.

    Each claim has chunks of its own: those of one that was lost may still be written to.
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
    store.keep(work.shard.chunk_names, work.settings.batch_ttl_s)
    end = len(ID_START) + WIRE_ID
    digits = slice(end - 6, end)
    return {int(line[digits]) for chunk in chunks for line in lines_of(chunk)}


def _requests(work: ClaimedShard, answered: set[int]) -> Iterator[tuple[int, bytes]]:
    """Number and params of the requests that have no answer."""
    shard = work.shard
    chunks = work.job.store().read(f"requests-{shard.spool}", shard.request_chunks)
    lines = (line for chunk in chunks for line in lines_of(chunk))
    return ((index, line) for index, line in enumerate(lines) if index not in answered)


def _record_answer(work: ClaimedShard, index: int, future: Future[bytes]) -> list[ApiProblem]:
    """Store an answer. Returns the problem if it is one of the request's own; others are raised."""
    try:
        message = future.result()
    except (anthropic.APIError, httpx2.HTTPError) as error:
        problem = problem_of(error)
        if not _is_about_the_request(problem):
            raise
        said = {"type": problem.type, "message": problem.message}
        result = {"type": "errored", "error": {"type": "error", "error": said}}
        _store_result(work, index, orjson.dumps(result))
        return [problem]
    _store_result(work, index, b'{"type":"succeeded","message":%s}' % message)
    return []


def _is_about_the_request(problem: ApiProblem) -> bool:
    words = problem.message.lower()
    return problem.status in _REQUEST_STATUSES and not any(
        each in words for each in _ACCOUNT_PHRASES
    )


def _store_result(work: ClaimedShard, index: int, result: bytes) -> None:
    """Store a result line, and count it. Raises `Fenced`, `UnexpectedResponse`."""
    shard = work.shard
    wire = wire_id(shard.nonce, index).encode()
    line = read_line(b'{"custom_id":"%s","result":%s}' % (wire, result))
    if line is None:
        raise UnexpectedResponse("the answer to a live call is no message")
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
