"""The task ``penstock.stream``: one live stream, from its wake-up to its end."""

import os
import socket
import threading
from functools import cache
from typing import Any

from celery import Task
from celery.utils.log import get_task_logger

from penstock import names
from penstock.connection import connect_async
from tasks.api import async_client
from tasks.later import later
from tasks.publisher import Publisher
from tasks.relay import Outcome, Relay
from workers.app import app, settings
from workers.loop import streams_loop
from workers.pool import on_terminate

logger = get_task_logger(__name__)
_starting = threading.Lock()


class StreamFailed(Exception):
    """The stream ended in an error; its record has the API's words."""


@app.task(name=names.STREAM, bind=True, max_retries=None, throws=(StreamFailed,))
def stream(task: "Task[Any, Any]", id: str) -> dict[str, Any]:
    """Relay the request ``id``. Returns a summary without any of its content."""
    relay = _relay()
    future = streams_loop.submit(relay.run(id))

    def terminate() -> None:
        streams_loop.submit(relay.cancel(id, "terminate"))

    with on_terminate(terminate):
        outcome = future.result()
    return _report(task, id, outcome)


def _report(task: "Task[Any, Any]", id: str, outcome: Outcome) -> dict[str, Any]:
    """Tell Celery, and with it Flower, how it went."""
    if outcome.state == "retry":
        raise later(task, reason=outcome.reason, countdown_s=outcome.countdown_s)
    if outcome.state == "failed":
        raise StreamFailed(outcome.reason)
    if outcome.state == "skipped":
        logger.info("request %s left alone: %s", id, outcome.reason)
        return {"kind": "stream", "state": "skipped", "reason": outcome.reason}
    return outcome.summary


def _relay() -> Relay:
    """The relay of this process, started with its first stream: a forked or idle process has no
    connections."""
    with _starting:
        return _started_relay()


@cache
def _started_relay() -> Relay:
    async def start() -> Relay:
        worker = f"{socket.gethostname()}:{os.getpid()}"
        connection = connect_async(settings)
        publisher = Publisher(connection, worker=worker, lease_ms=settings.lease_ms)
        publisher.start()
        return Relay(settings, connection, async_client(settings), publisher, worker)

    return streams_loop.submit(start()).result()
