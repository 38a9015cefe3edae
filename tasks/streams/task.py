"""The task ``penstock.stream``: one live stream, from its wake-up to its end."""

from typing import Any

from celery import Task
from celery.signals import task_revoked, worker_ready
from celery.utils.log import get_task_logger

from penstock.queue import names
from tasks.retry import retry_later
from tasks.streams.relay import Outcome
from tasks.streams.runtime import Engine
from workers.app import app, settings
from workers.loop import streams_loop
from workers.pool import on_shutdown, on_terminate

logger = get_task_logger(__name__)


class StreamFailed(Exception):
    """The stream ended in an error; its record has the API's words."""


engine = Engine(settings, streams_loop)


@app.task(name=names.STREAM, bind=True, max_retries=None, throws=(StreamFailed,))
def stream(task: "Task[Any, Any]", id: str) -> dict[str, Any]:
    """Relay the request ``id``. Returns a summary without any of its content."""
    relay = engine.start()
    future = streams_loop.submit(relay.run(id))
    with on_terminate(lambda: engine.cancel(id, "terminate")):
        outcome = future.result()
    return _report(task, id, outcome)


def _report(task: "Task[Any, Any]", id: str, outcome: Outcome) -> dict[str, Any]:
    """Tell Celery, and with it Flower, how it went."""
    if outcome.state == "retry":
        raise retry_later(task, reason=outcome.reason, countdown_s=outcome.countdown_s)
    if outcome.state == "failed":
        raise StreamFailed(outcome.reason)
    if outcome.state == "skipped":
        logger.info("request %s left alone: %s", id, outcome.reason)
        return {"kind": "stream", "state": "skipped", "reason": outcome.reason}
    return outcome.summary


@worker_ready.connect
def _ready(sender: Any, **_: Any) -> None:
    """Be warm for the first stream, where this worker takes streams."""
    if names.STREAMS_QUEUE in sender.app.amqp.queues.consume_from:
        engine.start()
        on_shutdown(engine.hand_over)


@task_revoked.connect
def _revoked(request: Any, **_: Any) -> None:
    """Flower's revoke before the start: Celery drops the message, the record has to follow."""
    if getattr(request, "task", getattr(request, "name", "")) == names.STREAM:
        engine.cancel(request.id, "revoke")
