"""Points at which a worker dies: before and behind every word that a batch step says to Redis or
the API.

Workers of a chaos run import this module (``celery worker --include tests.chaos.points``). It gives
each of these moments a name, such as ``create shard_write before``: the step, the word, and on
which side of it. A worker that comes by a point for which there is a ticket (a file of that name
in ``CHAOS_TICKETS``) takes the ticket and dies by SIGKILL, so every ticket kills once. The file
says how many workers may pass before. Every point that was passed is noted in ``CHAOS_POINTS``, so
that a first run without tickets tells which there are.
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

#: In an environment that has it, this module is active.
TICKETS, POINTS = "CHAOS_TICKETS", "CHAOS_POINTS"

_SCRIPTS = {
    script(path.stem).sha: path.stem
    for path in (Path(__file__).parents[2] / "penstock" / "store" / "lua").glob("*.lua")
}


class _Step(threading.local):
    """The batch step that this thread runs."""

    name = ""


_step = _Step()


def point(word: str, side: str) -> None:
    """The running step is just before or just behind ``word``."""
    if not _step.name:
        return
    name = f"{_step.name} {word} {side}"
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


def _around(owner: Any, method: str, word_of: Any) -> None:
    original = getattr(owner, method)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        word = word_of(self, *args, **kwargs) if _step.name else ""
        if not word:
            return original(self, *args, **kwargs)
        point(word, "before")
        answer = original(self, *args, **kwargs)
        point(word, "behind")
        return answer

    setattr(owner, method, wrapped)


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
    """The body of a create call, with points behind its first and its last piece."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for number, piece in enumerate(self._stream):
            yield piece
            if number == 0:
                point("body", "behind its first piece")
        point("body", "behind its last piece")

    def close(self) -> None:
        """Close what it is made of."""
        self._stream.close()


def install() -> None:
    """Begin to note points, and to die at those with a ticket."""

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


if TICKETS in os.environ:
    install()
