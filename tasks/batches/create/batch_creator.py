"""Creates a shard's batch at the API, so that a lost response can be resolved.

Before the call, the shard's record is written with what identifies the batch (the intent). Before
the last bytes of the body are sent, the record says that they are, and Redis has that on disk. So
whatever fails afterwards, the next worker knows from the record whether a batch can exist.
"""

import secrets
from typing import Final

import anthropic
import httpx2

from config.settings import WorkerSettings
from penstock.batches.notices import PauseReason
from penstock.batches.wire import NONCE_CHARS
from penstock.jitter import spread
from penstock.spool.chunks import ChunkMissing
from tasks.api.batches import UNKNOWN_REQUESTS, BatchesApi, ListedBatch, Listing
from tasks.api.client import ApiProblem, problem_of
from tasks.batches.claim import Fenced
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create import batch_owners, duplicates, size_locks, split
from tasks.batches.create.body import BodyMismatch, Upload
from tasks.batches.create.reconcile import (
    CLOCK_SKEW_MS,
    FIRST_SEARCH_S,
    NO_BATCH_STATUSES,
    adoptable,
    candidates,
    with_batch,
    with_intent,
    without_call,
)
from tasks.batches.limits import active_batches, cost_cap
from tasks.batches.limits.waiting import scaled_wait_s
from tasks.batches.step_result import Next, Parked, RetryIn, StepResult

#: Seconds until a shard asks again for a slot, for money under the cost cap, or for its size lock.
_SLOT_WAIT_S: Final = 20.0
COST_WAIT_S: Final = 30.0
_SIZE_LOCK_WAIT_S: Final = 4.0

#: The HTTP status of a body that the API, or a gateway in front of it, rejects as too large.
_TOO_LARGE: Final = 413

#: Maximum characters of the record's text about a lost call.
_MAX_REASON: Final = 300

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


class BatchCreator:
    """Creates the batches of planned shards."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def run(self, work: ClaimedShard, api: BatchesApi) -> StepResult:
        """Create the shard's batch, or return what it has to wait for."""
        too_large = split.is_too_large(work)
        if too_large and not work.shard.abandoned_nonces:
            return self._send_parts(work, api)
        waiting = self._reserve(work)
        if waiting is not None:
            return waiting
        try:
            nonce = new_nonce()
            if not size_locks.acquire(work, nonce):
                release_reservations(work)
                return _wait(_SIZE_LOCK_WAIT_S, "a create call of the same size is open")
            listing = self._listing(work, api)
        except Exception:
            release_reservations(work)
            raise
        duplicates.check(work, api, listing)
        if work.shard.abandoned_nonces and self._adopt_late_batch(work, listing):
            return created(work)
        if too_large:  # no earlier call has created its batch, which only the whole can adopt
            return self._send_parts(work, api)
        work.write(with_intent(work.shard, nonce, listing.workspace, listing.batches))
        return self._create(work, api)

    def _send_parts(self, work: ClaimedShard, api: BatchesApi) -> StepResult:
        """Split a shard that is too large, and create the batch of its first part."""
        release_reservations(work)  # before the record: the size lock is on the number of requests
        try:
            split.split_shard(work)
        except ChunkMissing as error:
            return requests_missing(error)
        return self.run(work, api)

    def _reserve(self, work: ClaimedShard) -> RetryIn | Parked | None:
        """Acquire a slot and reserve the highest cost. None: the shard has both."""
        work.job.store().refresh_ttl(work.shard.chunk_names, self._settings.batch_ttl_s)
        if not active_batches.acquire(work):
            seconds = scaled_wait_s(_SLOT_WAIT_S, work.job.shards_left())
            return _wait(seconds, "waiting for a slot: enough batches are active")
        reservation = cost_cap.reserve(work)
        if reservation == "ok":
            return None
        release_reservations(work)
        if reservation == "wait":
            seconds = scaled_wait_s(COST_WAIT_S, work.job.shards_left())
            return _wait(seconds, "waiting for the actual cost of other shards")
        assert isinstance(reservation, dict)
        return Parked(reservation["message"], pause=reservation)

    def _listing(self, work: ClaimedShard, api: BatchesApi) -> Listing:
        if not work.shard.abandoned_nonces:
            return api.newest()
        return api.since(work.shard.watermark_ms - CLOCK_SKEW_MS)

    def _adopt_late_batch(self, work: ClaimedShard, listing: Listing) -> bool:
        """Adopt the batch of an abandoned call, if it has appeared since."""
        if listing.workspace != work.shard.workspace:
            return False
        possible = candidates(work.shard, listing.batches, work.shard.until_ms)
        available = adoptable(possible, batch_owners.owners_of(work, possible))
        return any(assign_batch(work, batch, confirmed=False) for batch in available)

    def _create(self, work: ClaimedShard, api: BatchesApi) -> StepResult:
        def note_sent() -> None:
            work.write(work.shard.evolve(sent_ms=work.job.now_ms()), durable=True)

        shard = work.shard
        upload = Upload(shard, work.job.store(), note_sent)
        try:
            batch = api.create(upload, shard.size)
        except Exception as error:  # any error: the record must say whether a batch can exist
            return self._after_failed_call(work, upload, error)
        if batch.requests not in (shard.requests, UNKNOWN_REQUESTS):
            return self._lost(work, "the response to the create call is about another batch")
        assign_batch(work, batch, confirmed=True)
        return created(work)

    def _after_failed_call(
        self, work: ClaimedShard, upload: Upload, error: Exception
    ) -> StepResult:
        """Handle a call that returned no batch, by whether the API can have created one."""
        if isinstance(upload.error, Fenced):
            raise upload.error
        problem = _problem(error)
        if upload.complete and problem.status not in NO_BATCH_STATUSES:
            return self._lost(work, str(problem))
        work.write(without_call(work.shard))
        release_reservations(work)
        if isinstance(upload.error, ChunkMissing | BodyMismatch):
            return requests_missing(upload.error)
        if problem.status == _TOO_LARGE and not work.cancel:
            return split.after_rejection(work, problem)
        raise upload.error or error

    def _lost(self, work: ClaimedShard, why: str) -> RetryIn:
        work.write(work.shard.evolve(over_ms=work.job.now_ms(), lost=why[:_MAX_REASON]))
        wait_s = min(FIRST_SEARCH_S, self._settings.list_consistency_s)
        return RetryIn(wait_s, f"{why}; searching for the batch")


def assign_batch(work: ClaimedShard, batch: ListedBatch, *, confirmed: bool) -> bool:
    """Record that the batch is the shard's. Raises `Fenced`.

    Returns false if the batch is, or may be, another shard's. ``confirmed``: the API named the
    batch in its response; otherwise the shard adopts it.
    """
    # The owner first: if the worker dies before the record is written, the next worker finds the
    # batch marked as this shard's.
    if not batch_owners.claim(work, batch, confirmed=confirmed):
        return False
    work.advance("create", with_batch(work.shard, batch, confirmed=confirmed))
    size_locks.release(work)
    return True


def new_nonce() -> str:
    """Return twelve random characters, which begin the custom_ids of one create call."""
    return "".join(secrets.choice(_LETTERS) for _ in range(NONCE_CHARS))


def created(work: ClaimedShard) -> Next:
    """Return the result of a create step whose shard has a batch, or needs none."""
    shard = work.shard
    return Next({"kind": "batch", "batch_id": shard.batch_id, "requests": shard.requests})


def requests_missing(error: Exception) -> Parked:
    """Pause the job: requests of the shard are not in the spool."""
    why = {"type": PauseReason.REQUESTS_MISSING, "message": str(error)}
    return Parked("the stored requests are not complete", pause=why)


def release_reservations(work: ClaimedShard) -> None:
    """Release the cost, the slot and the size lock that a shard has reserved."""
    work.write(spent=0)
    active_batches.release(work)
    size_locks.release(work)


def _wait(seconds: float, reason: str) -> RetryIn:
    return RetryIn(spread(seconds, by=0.25), reason)


def _problem(error: Exception) -> ApiProblem:
    if isinstance(error, anthropic.APIError | httpx2.HTTPError):
        return problem_of(error)
    return ApiProblem(type="unexpected_response", message=f"{type(error).__name__}: {error}")
