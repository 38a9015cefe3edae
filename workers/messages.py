"""Messages of the queues, checked and written again before Celery sees them.

Every program that enqueues can write to the lists of a queue, and Celery trusts a message: its
chain, its callbacks and its delivery information say to which list a worker writes next, and what
is not JSON ends the worker. So a worker takes from a message only what the wake-ups of Penstock
have: a task and its arguments, a time, and what Flower shows. It drops every other message.
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from kombu.transport.redis import Transport

from penstock.ids import is_id
from penstock.queue import names

TASKS: Final = (names.STREAM, *names.BATCH_STEPS)

#: Maximum characters of a body: it holds ids.
_MAX_BODY: Final = 65_536
#: Maximum characters of a text that Flower shows.
_MAX_SHOWN: Final = 500
#: Maximum time until a message is due. Workers wait for minutes; clocks may differ.
_MAX_WAIT: Final = timedelta(days=1)


class MessageRefused(ValueError):
    """The message is not a wake-up."""


def rebuilt(raw: Any, queue: str) -> dict[str, Any]:
    """Return a message of ``queue``, as kombu stores it, with nothing but what a wake-up has.

    Raises `MessageRefused`.
    """
    headers, properties = _object(raw, "headers"), _object(raw, "properties")
    task, id = headers.get("task"), headers.get("id")
    if task not in TASKS or names.queue_of(task) != queue:
        raise MessageRefused("is for no task of this queue")
    if not isinstance(id, str) or not is_id(id):
        raise MessageRefused("has no id")
    args, kwargs, embed = _body(raw, properties)
    body = json.dumps([args, kwargs, {**_NO_SIGNATURES, "chain": _chain(embed, task, args)}])
    priority = properties.get("priority")
    return {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": task,
            "id": id,
            "eta": _eta(headers.get("eta")),
            "expires": None,
            "retries": _whole(headers.get("retries"), 10**6),
            "timelimit": [None, None],
            "root_id": _other_id(headers.get("root_id")),
            "parent_id": _other_id(headers.get("parent_id")),
            "origin": _shown(headers.get("origin")),
            "ignore_result": True,
            "redelivered": headers.get("redelivered") is True,
            **_reprs(headers),
        },
        "properties": {
            "correlation_id": id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": str(uuid4()),
            "body_encoding": "base64",
            "priority": _whole(priority, 9),
        },
    }


_NO_SIGNATURES: Final = {"callbacks": None, "errbacks": None, "chord": None}


def _object(raw: Any, name: str) -> Mapping[str, Any]:
    found = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(found, dict):
        raise MessageRefused(f"has no {name}")
    return found


def _body(raw: Mapping[str, Any], properties: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    text = raw.get("body")
    if raw.get("content-type") != "application/json":
        raise MessageRefused("is not JSON")
    if not isinstance(text, str) or len(text) > _MAX_BODY:
        raise MessageRefused("has no body, or a large one")
    try:
        encoded = properties.get("body_encoding") == "base64"
        found = json.loads(base64.b64decode(text) if encoded else text)
        args, kwargs, embed = found
    except (ValueError, TypeError, RecursionError):
        raise MessageRefused("has a body that is not Celery's") from None
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict)):
        raise MessageRefused("has a body that is not Celery's")
    return args, kwargs, embed


def _chain(embed: Mapping[str, Any], task: str, args: list[Any]) -> list[dict[str, Any]] | None:
    """Return the steps that follow in the chain of a shard, in Celery's order: the next is last."""
    steps = embed.get("chain")
    if not steps:
        return None
    left = names.BATCH_STEPS[names.BATCH_STEPS.index(task) + 1 :] if task != names.STREAM else ()
    found = [_step(each, args) for each in steps] if isinstance(steps, list) else []
    if not found or [each["task"] for each in reversed(found)] != list(left):
        raise MessageRefused("has a chain that is not a shard's")
    return found


def _step(found: Any, args: list[Any]) -> dict[str, Any]:
    options = found.get("options") if isinstance(found, dict) else None
    if not isinstance(options, dict) or found.get("args") != args:
        raise MessageRefused("has a chain that is not a shard's")
    id = _other_id(options.get("task_id"))
    return {
        "task": found.get("task"),
        "args": args,
        "kwargs": {},
        "options": {
            "queue": names.BATCHES_QUEUE,
            "ignore_result": True,
            **_reprs(options),
            **({"task_id": id} if id else {}),
        },
        "subtask_type": None,
        "immutable": True,
    }


def _eta(value: Any) -> str | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        late = at.replace(tzinfo=at.tzinfo or UTC) > datetime.now(UTC) + _MAX_WAIT
    except (TypeError, ValueError, OverflowError):
        raise MessageRefused("has no valid time") from None
    if late:
        raise MessageRefused("is due in more than a day")
    return at.isoformat()


def _whole(value: Any, most: int) -> int:
    return value if type(value) is int and 0 <= value <= most else 0


def _other_id(value: Any) -> str | None:
    return value if isinstance(value, str) and is_id(value) else None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= _MAX_SHOWN else ""


def _reprs(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: _shown(found.get(name)) for name in ("argsrepr", "kwargsrepr")}


def install() -> None:
    """Make kombu deliver only wake-ups from the queues. Idempotent.

    `workers.transport` logs and drops a message that is refused.
    """
    transport: Any = Transport
    deliver = transport._deliver  # private, and the only place
    if getattr(deliver, "checks", False):
        return

    def deliver_checked(self: Any, message: Any, queue: str) -> Any:
        return deliver(self, rebuilt(message, queue) if queue in names.QUEUES else message, queue)

    deliver_checked.checks = True  # type: ignore[attr-defined]
    transport._deliver = deliver_checked
