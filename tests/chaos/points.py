"""Points at which a worker is killed: before and after every call of a batch step.

Workers of a chaos run import this module (``celery worker --include tests.chaos.points``). It names
each point, such as ``create shard_write before``: the step, its call to Redis or the API, and the
side of the call. A worker that reaches a point with a ticket (a file of that name in
``CHAOS_TICKETS``) removes the ticket and kills itself with SIGKILL, so every ticket kills once. The
file holds the number of workers to let pass first. Every point that is reached is recorded in
``CHAOS_POINTS``, so a first run without tickets lists all points.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import redis
from celery.signals import task_postrun, task_prerun

from penstock.queue.names import BATCH_STEPS
from penstock.store.scripts import script
from tasks.batches.create import gather, split

#: Environment variables; this module is active if the first is set.
TICKETS, POINTS = "CHAOS_TICKETS", "CHAOS_POINTS"

_LUA = Path(__file__).parents[2] / "penstock" / "store" / "lua"
_NAMES = [str(path.relative_to(_LUA).with_suffix("")) for path in _LUA.rglob("*.lua")]
_SCRIPTS = {script(name).sha: name for name in _NAMES if not name.startswith("include/")}


class _Step(threading.local):
    """The batch step that this thread runs."""

    name = ""


_step = _Step()


def point(call: str, side: str) -> None:
    """Record a point just before or after ``call``; die if there is a ticket for it."""
    if not _step.name:
        return
    name = f"{_step.name} {call} {side}"
    note = Path(os.environ[POINTS]) / name
    if not note.exists():
        note.touch()
    ticket = Path(os.environ[TICKETS]) / name
    with contextlib.suppress(FileNotFoundError, ValueError):  # another worker was faster
        if ticket.exists() and _is_due(ticket):
            ticket.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def _is_due(ticket: Path) -> bool:
    left = int(ticket.read_text())
    if left:
        ticket.write_text(str(left - 1))
    return not left


def _around(owner: Any, method: str, name_of: Any) -> None:
    original = getattr(owner, method)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = name_of(self, *args, **kwargs) if _step.name else ""
        if not call:
            return original(self, *args, **kwargs)
        point(call, "before")
        answer = original(self, *args, **kwargs)
        point(call, "after")
        return answer

    setattr(owner, method, wrapped)


def _named(module: Any, function: str, part: str) -> None:
    """Name the points inside a part of a step after the part as well."""
    original = getattr(module, function)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        step = _step.name
        _step.name = step and f"{step} {part}"
        try:
            return original(*args, **kwargs)
        finally:
            _step.name = step

    setattr(module, function, wrapped)


def _command(_: Any, *args: Any, **__: Any) -> str:
    name = str(args[0]).split()[0].upper()
    if name == "EVALSHA":
        return _SCRIPTS.get(str(args[1]), "script")
    return "" if name in ("PING", "SCRIPT LOAD") else name


def _pipeline(pipe: Any, *_: Any, **__: Any) -> str:
    stack = pipe.command_stack
    if not stack:
        return ""
    return "+".join(dict.fromkeys(str(command[0][0]).upper() for command in stack))


def _request(_: Any, request: Any, *__: Any, **___: Any) -> str:
    path = request.url.path
    if request.method == "POST" and path.endswith("/batches"):
        request.stream = _Body(request.stream)
    return f"{request.method} {'results' if path.endswith('/results') else _kind(path)}"


def _kind(path: str) -> str:
    return "batch" if "msgbatch" in path else path.rsplit("/", 1)[-1]


class _Body(httpx2.SyncByteStream):
    """The body of a create call, with points after its first and its last chunk."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for number, chunk in enumerate(self._stream):
            yield chunk
            if number == 0:
                point("body", "after its first chunk")
        point("body", "after its last chunk")

    def close(self) -> None:
        """Close the underlying stream."""
        self._stream.close()


def install() -> None:
    """Start to record points and to die at those with a ticket."""

    @task_prerun.connect(weak=False)
    def _begin(task: Any, **_: Any) -> None:
        if task.name in BATCH_STEPS:
            _step.name = task.name.rsplit(".", 1)[1]

    @task_postrun.connect(weak=False)
    def _end(**_: Any) -> None:
        _step.name = ""

    _around(redis.Redis, "execute_command", _command)
    _around(redis.client.Pipeline, "execute", _pipeline)
    _around(httpx2.Client, "send", _request)
    _named(gather, "_take", "gather")
    _named(split, "split_shard", "split")


if TICKETS in os.environ:
    install()
