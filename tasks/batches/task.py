"""The tasks of a shard: ``penstock.batch.create``, ``poll``, ``collect`` and ``finish``.

A producer sends them as one chain. A step that has to wait returns to the queue with a countdown
and keeps its place in the chain, so a batch that runs for hours occupies no worker.
"""

from functools import cache
from typing import Any, Final, assert_never

from celery import Task
from celery.utils.log import get_task_logger
from redis.exceptions import RedisError

from penstock.batches.notices import PauseReason
from penstock.batches.shard import Shard
from penstock.errors import ConfigurationError
from penstock.ids import is_id
from penstock.queue import names
from penstock.queue.wakeups import send_shard
from penstock.states import State
from penstock.store.availability import is_unavailable, outage
from penstock.store.connection import Connection, connect
from tasks.api.client import sync_client
from tasks.api.retry import MAX_WAIT_S
from tasks.batches.claim import Fenced, InGracePeriod, JobUnreadable, NotClaimed
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.step_result import (
    JobEnded,
    Next,
    Parked,
    Redirect,
    RetryIn,
    ShardDone,
    StepResult,
)
from tasks.batches.steps import BatchSteps
from tasks.retry import retry_later
from tasks.task_states import CANCELED, PAUSED, SKIPPED, end_as, shown, wait_later
from workers.app import app, settings
from workers.identity import process_name

logger = get_task_logger(__name__)

#: Seconds until a step is retried that could not use the spool.
_UNAVAILABLE_RETRY_S: Final = 60.0
#: The steps of this process in an `Outage`.
_PART: Final = "steps"


#: Why a claim was refused, as Flower shows it.
_WHY_NOT: Final = {
    "gone": "the record of the job has expired or was deleted",
    "ended": "the job has already ended",
    "leased": "another worker is running the step",
    "early": "the step is not due yet; its own message follows",
}


class JobFailed(Exception):
    """The job ended with an error; only its record holds the API's message."""


class NotAJob(Exception):
    """The message was not sent by Penstock's client, so there is no record of a job."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} takes the id of a recorded job and the number of a shard; to send a job: "
            "penstock.Client().messages.batches.create(requests=[…])"
        )


def _run(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Run the step that ``task`` is named after. Returns a summary for Flower."""
    if not isinstance(job, str) or not is_id(job) or not isinstance(shard, int):
        raise NotAJob(task.name)
    try:
        with ClaimedShard.claim(
            _connection(), settings, job=job, shard=shard, worker=process_name()
        ) as work:
            outage.end(_PART)
            return _execute(task, work, _step(task, work))
    except InGracePeriod as error:
        raise wait_later(task, reason=str(error), countdown_s=error.wait_s) from None
    except JobUnreadable as error:
        raise end_as(task, SKIPPED, {"reason": f"the job has failed: {error}"}) from None
    except (NotClaimed, Fenced) as error:
        # Another chain has the shard, or the job has ended: nothing is left to do for this one.
        reason = _WHY_NOT.get(str(error), "another worker has claimed it")
        raise end_as(task, SKIPPED, {"reason": reason}) from None
    except RedisError as error:
        if not is_unavailable(error):
            raise
        outage.note(_PART, error)
        reason = "Redis is unavailable or refuses commands"
        raise wait_later(task, reason=reason, countdown_s=settings.wakeup_retry_s) from None


def _execute(task: "Task[Any, Any]", work: ClaimedShard, result: StepResult) -> dict[str, Any]:
    """Release the claim as the result of the step says; returns what the task returns.

    An exception stops the chain.
    """
    match result:
        case Next(summary, wake, pause):
            work.release(pause=pause)
            for number in wake:
                _wake(work.job.id, number)
            return shown(summary)
        case RetryIn(seconds, reason, failed):
            wait_s = work.release(countdown_s=min(seconds, MAX_WAIT_S))
            if failed:
                raise retry_later(task, reason=reason, countdown_s=wait_s)
            raise wait_later(task, reason=reason, countdown_s=wait_s)
        case Parked(reason, pause):
            due_in_s = work.park(pause=pause)
            if due_in_s is not None:  # the job was resumed or canceled while the step ran
                raise wait_later(task, reason=reason, countdown_s=due_in_s)
            raise end_as(task, PAUSED, {"reason": reason})
        case Redirect(reason):
            work.release()
            _wake(work.job.id, work.shard.number)
            raise end_as(task, SKIPPED, {"reason": reason})
        case ShardDone(summary):
            work.release(done=True)
            return shown(summary)
        case JobEnded(summary):
            return _ended(task, summary)
        case _:
            assert_never(result)


def _ended(task: "Task[Any, Any]", summary: dict[str, Any]) -> dict[str, Any]:
    if summary["state"] == State.FAILED:
        raise JobFailed("the job has failed; its record has the error")
    if summary["state"] == State.CANCELED:
        raise end_as(task, CANCELED, summary)
    return shown(summary)


def _step(task: "Task[Any, Any]", work: ClaimedShard) -> StepResult:
    try:
        steps = _steps()
    except ConfigurationError as error:  # no call can work, and the next worker has the same one
        why = {"type": PauseReason.HTTP_SETTINGS, "message": str(error)}
        return Parked("the workers' HTTP settings cannot be used", pause=why)
    try:
        return steps.run(task.name, work)
    except Fenced:
        raise
    except Exception as error:
        if isinstance(error, RedisError) and is_unavailable(error):
            raise
        # The spool is unavailable. The record is as before, and the step runs again.
        logger.exception("job %s shard %s: %s failed", work.job.id, work.shard.number, task.name)
        reason = f"{task.name} failed: {type(error).__name__}"
        return RetryIn(_UNAVAILABLE_RETRY_S, reason, failed=True)


def _wake(job: str, shard: int) -> None:
    keys = settings.keys.job(job)
    # A shard that is not due yet would ignore the message.
    _connection().hdel(keys.claims, f"{shard}:due")
    raw = _connection().hget(keys.shards, shard)
    if raw is not None:
        found = Shard.parse_or_placeholder(raw, shard)
        send_shard(app, job, shard, found.model, found.step)


@app.task(name=names.BATCH_CREATE, bind=True, max_retries=None)
def create(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Create the shard's batch at the API."""
    return _run(task, job, shard)


@app.task(name=names.BATCH_POLL, bind=True, max_retries=None)
def poll(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Check whether the shard's batch has ended; run again later if not."""
    return _run(task, job, shard)


@app.task(name=names.BATCH_COLLECT, bind=True, max_retries=None)
def collect(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Store the results of the shard's batch."""
    return _run(task, job, shard)


@app.task(name=names.BATCH_FINISH, bind=True, max_retries=None, throws=(JobFailed,))
def finish(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """End the job once its last shard is collected."""
    return _run(task, job, shard)


@cache
def _connection() -> Connection:
    return connect(settings)


@cache
def _steps() -> BatchSteps:
    return BatchSteps(settings, sync_client(settings))
