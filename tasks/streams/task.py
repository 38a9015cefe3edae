"""The task ``penstock.stream``: runs one live stream."""

from typing import Any

from celery import Task
from celery.signals import task_revoked, worker_ready
from celery.utils.log import get_task_logger

from penstock.ids import is_id
from penstock.queue import names
from tasks.retry import retry_later
from tasks.streams.result import RunResult
from tasks.streams.runtime import StreamRuntime
from tasks.task_states import CANCELED, SKIPPED, end_as, shown
from workers.app import app, settings
from workers.loop import streams_loop
from workers.pool import on_shutdown

logger = get_task_logger(__name__)


class StreamFailed(Exception):
    """The stream ended with an error; only its record holds the API's message."""


class NotARequest(Exception):
    """The message was not sent by Penstock's client, so there is no record of a request."""

    def __init__(self) -> None:
        super().__init__(
            f"{names.STREAM} takes the id of a recorded request and nothing else; to send a "
            "request: penstock.Client().messages.enqueue(model=…, max_tokens=…, messages=[…])"
        )


runtime = StreamRuntime(settings, streams_loop)
on_shutdown(runtime.hand_over, runtime.abandon)


@app.task(  # type: ignore[arg-type]  # the stub allows no **named
    name=names.STREAM, bind=True, max_retries=None, throws=(StreamFailed,)
)
def stream(task: "Task[Any, Any]", id: object = None, *more: object, **named: object) -> Any:
    """Run the request ``id``. Returns a summary that holds neither prompt nor answer.

    Raises `NotARequest` for other arguments. They are not repeated: they may hold a prompt.
    """
    if not isinstance(id, str) or not is_id(id) or more or named:
        raise NotARequest
    return _report(task, id, runtime.run(id))


def _report(task: "Task[Any, Any]", id: str, result: RunResult) -> dict[str, Any]:
    """Turn the result into what Celery and Flower understand: a value or an exception."""
    if result.state == "retry":
        raise retry_later(task, reason=result.reason, countdown_s=result.countdown_s)
    if result.state == "failed":
        raise StreamFailed(result.reason)
    if result.state == "skipped":
        logger.info("request %s skipped: %s", id, result.reason)
        raise end_as(task, SKIPPED, {"reason": result.reason})
    if result.state == "canceled":
        logger.info("request %s canceled", id)
        raise end_as(task, CANCELED, result.summary, result.summary["total_ms"] / 1000)
    return shown(result.summary)


@worker_ready.connect
def _ready(sender: Any, **_: Any) -> None:
    """Start the runtime before the first stream, if this worker runs streams."""
    if names.STREAMS_QUEUE in sender.app.amqp.queues.consume_from:
        runtime.start()


@task_revoked.connect
def _revoked(request: Any, terminated: bool = False, **_: Any) -> None:
    """Cancel a request that was revoked: Celery only drops the message of a task that waits, and
    cannot stop one that runs (``terminated``).
    """
    if getattr(request, "task", getattr(request, "name", "")) == names.STREAM:
        runtime.cancel(request.id, "terminate" if terminated else "revoke")
