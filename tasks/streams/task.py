"""The task ``penstock.stream``: runs one live stream."""

from typing import Any

from celery import Task
from celery.signals import task_revoked, worker_ready
from celery.utils.log import get_task_logger

from penstock.queue import names
from tasks.retry import retry_later
from tasks.streams.result import RunResult
from tasks.streams.runtime import StreamRuntime
from workers.app import app, settings
from workers.loop import streams_loop
from workers.pool import on_shutdown, on_terminate

logger = get_task_logger(__name__)


class StreamFailed(Exception):
    """The stream ended with an error; only its record holds the API's message."""


runtime = StreamRuntime(settings, streams_loop)


@app.task(name=names.STREAM, bind=True, max_retries=None, throws=(StreamFailed,))
def stream(task: "Task[Any, Any]", id: str) -> dict[str, Any]:
    """Run the request ``id``. Returns a summary that holds neither prompt nor answer."""
    with on_terminate(lambda: runtime.cancel(id, "terminate")):
        result = runtime.run(id)
    return _report(task, id, result)


def _report(task: "Task[Any, Any]", id: str, result: RunResult) -> dict[str, Any]:
    """Turn the result into what Celery and Flower understand: a value or an exception."""
    if result.state == "retry":
        raise retry_later(task, reason=result.reason, countdown_s=result.countdown_s)
    if result.state == "failed":
        raise StreamFailed(result.reason)
    if result.state == "skipped":
        logger.info("request %s skipped: %s", id, result.reason)
        return {"kind": "stream", "state": "skipped", "reason": result.reason}
    return result.summary


@worker_ready.connect
def _ready(sender: Any, **_: Any) -> None:
    """Start the runtime before the first stream, if this worker runs streams."""
    if names.STREAMS_QUEUE in sender.app.amqp.queues.consume_from:
        runtime.start()
        on_shutdown(runtime.hand_over)


@task_revoked.connect
def _revoked(request: Any, **_: Any) -> None:
    """Cancel a request that was revoked in the queue; Celery only drops the message."""
    if getattr(request, "task", getattr(request, "name", "")) == names.STREAM:
        runtime.cancel(request.id, "revoke")
