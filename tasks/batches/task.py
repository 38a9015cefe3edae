"""The tasks of a shard: ``penstock.batch.create``, ``poll``, ``collect`` and ``finish``.

A producer sends them as one chain. A step that has to wait returns to the queue with a countdown
and keeps its place in the chain, so a batch that runs for hours occupies no worker.
"""

from functools import cache
from typing import Any, Final, assert_never

from celery import Task
from celery.utils.log import get_task_logger

from penstock.batches.notices import PauseReason
from penstock.batches.shard import Shard
from penstock.errors import ConfigurationError
from penstock.queue import names
from penstock.queue.wakeups import send_shard
from penstock.store.connection import Connection, connect
from tasks.api.client import sync_client
from tasks.batches.claim import Fenced, NotClaimed, RestartGrace
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
from workers.app import app, settings
from workers.identity import process_name

logger = get_task_logger(__name__)

#: Seconds until a step that failed with an unexpected error is retried.
_UNEXPECTED_RETRY_S: Final = 60.0


def _run(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Run the step that ``task`` is named after."""
    try:
        with ClaimedShard.claim(
            _connection(), settings, job=job, shard=shard, worker=process_name()
        ) as work:
            return _execute(task, work, _step(task, work))
    except RestartGrace as error:
        raise retry_later(task, reason=str(error), countdown_s=error.wait_s) from None
    except (NotClaimed, Fenced) as error:
        # Another chain has the shard, or the job has ended: nothing is left to do for this one.
        return _end_chain(task, "skipped", str(error) or "claimed by another worker")


def _execute(task: "Task[Any, Any]", work: ClaimedShard, result: StepResult) -> dict[str, Any]:
    """Release the claim as the result of the step says; returns what the task returns."""
    match result:
        case Next(summary, wake, pause):
            work.release(pause=pause)
            for number in wake:
                _wake(work.job.id, number)
            return summary
        case RetryIn(seconds, reason):
            wait_s = work.release(countdown_s=seconds)
            raise retry_later(task, reason=reason, countdown_s=wait_s)
        case Parked(reason, pause):
            due_in_s = work.park(pause=pause)
            if due_in_s is not None:  # the job was resumed or canceled while the step ran
                raise retry_later(task, reason=reason, countdown_s=due_in_s)
            return _end_chain(task, "paused", reason)
        case Redirect(reason):
            work.release()
            _wake(work.job.id, work.shard.number)
            return _end_chain(task, "elsewhere", reason)
        case ShardDone(summary):
            work.release(done=True)
            return summary
        case JobEnded(summary):
            return summary
        case _:
            assert_never(result)


def _end_chain(task: "Task[Any, Any]", state: str, reason: str) -> dict[str, Any]:
    """End the chain with this task; Flower shows the summary that is returned."""
    task.request.chain = None
    return {"kind": "batch", "state": state, "reason": reason}


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
        # Nothing is lost: the record is as before, and the step runs again.
        logger.exception("job %s shard %s: %s failed", work.job.id, work.shard.number, task.name)
        reason = f"{task.name} failed: {type(error).__name__}"
        return RetryIn(_UNEXPECTED_RETRY_S, reason)


def _wake(job: str, shard: int) -> None:
    keys = settings.keys.job(job)
    # A shard that is not due yet would ignore the message.
    _connection().hdel(keys.claims, f"{shard}:due")
    raw = _connection().hget(keys.shards, shard)
    if raw is not None:
        found = Shard.parse(raw)
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


@app.task(name=names.BATCH_FINISH, bind=True, max_retries=None)
def finish(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """End the job once its last shard is collected."""
    return _run(task, job, shard)


@cache
def _connection() -> Connection:
    return connect(settings)


@cache
def _steps() -> BatchSteps:
    return BatchSteps(settings, sync_client(settings))
