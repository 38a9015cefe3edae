"""Messages that no program of Penstock has sent end no worker, and delay no other message."""

import base64
import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import redis

from penstock import Client, State
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import WorkerProcess
from penstock.queue.names import PRIORITIES, QUEUES, queue_keys
from penstock.testing import wait_until

Body = Callable[..., dict[str, Any]]

NO_MESSAGES = [b"", b"garbage", b"\xff\xfe\x00", b"null", b"1", b'"x"', b"[]", b"{}", b"[" * 50_000]
ODD_VALUES: list[Any] = [None, 5, "odd", [], {}, ["a"]]
HEADERS = ["task", "id", "eta", "expires", "retries", "timelimit", "group", "argsrepr", "parent_id"]


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def message(queue: str) -> dict[str, Any]:
    """A message as Celery sends it, for a request that does not exist."""
    id = new_id()
    return {
        "body": encoded(json.dumps([[id], {}, {}]).encode()),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "penstock.stream", "id": id, "retries": 0},
        "properties": {
            "correlation_id": id,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": new_id(),
            "body_encoding": "base64",
        },
    }


def malformed(queue: str) -> list[bytes]:
    """Messages with one fault each."""
    places: list[tuple[str, ...]] = [
        *((name,) for name in message(queue)),
        *(("headers", name) for name in HEADERS),
        *(("properties", name) for name in message(queue)["properties"]),
    ]
    found = list(NO_MESSAGES)
    for path in places:
        for value in ODD_VALUES:
            one = deepcopy(message(queue))
            part = one if len(path) == 1 else one[path[0]]
            part[path[-1]] = value
            found.append(json.dumps(one).encode())
        one = deepcopy(message(queue))
        (one if len(path) == 1 else one[path[0]]).pop(path[-1], None)
        found.append(json.dumps(one).encode())
    bodies = (b"{", b"1", b"{}", b"[1]", b"[null,null,null]", b"\xff", b"[" * 50_000)
    odd = ({**message(queue), "body": encoded(text)} for text in bodies)
    return [*found, *(json.dumps(one).encode() for one in odd)]


@pytest.mark.parametrize("queue", QUEUES)
def test_malformed_messages_end_no_worker_and_delay_no_other_message(
    penstock_redis: EmbeddedRedis,
    penstock_workers: list[WorkerProcess],
    penstock_client: Client,
    body: Body,
    queue: str,
) -> None:
    lists = dict(zip(PRIORITIES, queue_keys(queue, "penstock"), strict=True))
    with redis.Redis.from_url(penstock_redis.url) as connection:
        before = len(connection.hkeys("unacked"))
        for each in malformed(queue):
            connection.lpush(lists[0], each)
        wait_until(lambda: not connection.llen(lists[0]), what="an empty queue")
        wait_until(lambda: len(connection.hkeys("unacked")) <= before, what="no message is held")
    assert all(worker.alive for worker in penstock_workers)
    request = penstock_client.messages.enqueue(**body("Hi. [[sim rate=0]]"))
    request.result(timeout=20)
    assert request.record().state == State.DONE
