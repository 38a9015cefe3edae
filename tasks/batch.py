"""The tasks of a batch job's shards: ``penstock.batch.create``, ``poll``, ``collect``, ``finish``.

A producer sends them as one chain. A step that has to wait goes back to the queue by countdown,
keeping its place in the chain, so no worker is held while a batch runs for hours.
"""

import os
import socket
from functools import cache
from typing import Any

from celery import Task
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger

from penstock import names
from penstock.connection import connect
from tasks.api import sync_client
from tasks.batch_steps import BatchSteps, JobFailed
from tasks.later import later
from tasks.shard import ClaimedShard, Fenced, NotClaimed
from workers.app import app, settings

logger = get_task_logger(__name__)

#: How long each step may hold its shard, in seconds: an upload or a download of 256 MB takes its
#: time, a look at a batch does not.
_LEASE_S = {
    names.BATCH_CREATE: int(settings.upload_timeout_s) + 120,
    names.BATCH_POLL: 120,
    names.BATCH_COLLECT: 1800,
    names.BATCH_FINISH: 120,
}


def _run(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Run the step that ``task`` is named after."""
    try:
        with ClaimedShard.claim(
            _connection(),
            settings,
            job=job,
            shard=shard,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            lease_s=_LEASE_S[task.name],
        ) as work:
            step = _steps().run(task.name, work)
    except (NotClaimed, Fenced) as error:
        # Another chain is at it, or the job has ended: this one has nothing more to do.
        logger.info("job %s shard %s left alone: %s", job, shard, error)
        raise Ignore from None
    if step.countdown_s is None:
        return step.summary
    raise later(task, reason=step.reason, countdown_s=step.countdown_s)


@app.task(name=names.BATCH_CREATE, bind=True, max_retries=None, throws=(JobFailed,))
def create(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Make a shard a batch at the API."""
    return _run(task, job, shard)


@app.task(name=names.BATCH_POLL, bind=True, max_retries=None, throws=(JobFailed,))
def poll(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Look whether the shard's batch has ended; come back later if not."""
    return _run(task, job, shard)


@app.task(name=names.BATCH_COLLECT, bind=True, max_retries=None, throws=(JobFailed,))
def collect(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """Store the results of the shard's batch."""
    return _run(task, job, shard)


@app.task(name=names.BATCH_FINISH, bind=True, max_retries=None, throws=(JobFailed,))
def finish(task: "Task[Any, Any]", job: str, shard: int) -> dict[str, Any]:
    """End the job once its last shard is collected."""
    return _run(task, job, shard)


@cache
def _connection() -> Any:
    return connect(settings)


@cache
def _steps() -> BatchSteps:
    return BatchSteps(settings, sync_client(settings))
