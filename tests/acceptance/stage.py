"""A private Redis, simulator and workers, for tests that kill them."""

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import redis

from penstock.client import Client
from penstock.events import ATTEMPT, END, QUEUED, REWIND, Event
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import free_port
from penstock.local.stack import SIMULATOR_KEY, SimulatorProcess, WorkerProcess
from penstock.simulator.control import Control
from penstock.streams.message_builder import MessageBuilder
from penstock.streams.stream import StreamRequest
from penstock.testing import wait_until

PREFILL = "claude-haiku-4-5"  #: continues a partial assistant message
USER_TURN = "claude-opus-5-5"  #: continues only after a further user turn

#: Directives of the simulator, each of which interrupts an answer.
INTERRUPTIONS = [
    "disconnect_after=1",
    "disconnect_after=5",
    "disconnect_after=5 reset",
    "disconnect_after=last",
    "eof_after=4",
    "eof_after=-1",
    "eof_after=last",
    "error_after=3 error_type=overloaded_error",
    "error_after=6 error_type=api_error",
    "drop_mid_char=2",
    "stall_after=4 stall=60",
    "disconnect_after=4 crlf chunk=7",
]


class Stage:
    """The processes of one test module. A context manager."""

    def __init__(self, **settings: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-stage-"))
        self._port = free_port()
        self._settings = settings
        self.redis = EmbeddedRedis(folder=self._folder, port=self._port)
        self.simulator = SimulatorProcess()
        self.workers: list[WorkerProcess] = []

    def __enter__(self) -> "Stage":
        self.redis.start()
        self.simulator.start()
        self.control = Control(self.simulator.url)
        self.client = Client(self.redis.url)
        self.connection: Any = redis.Redis.from_url(self.redis.url, decode_responses=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.connection.close()
        for worker in self.workers:
            worker.kill()
            worker.stop()
        self.simulator.stop()
        self.redis.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def launch(
        self, *, database: int = 0, options: tuple[str, ...] = (), **settings: str
    ) -> WorkerProcess:
        """Start a worker without waiting for it; `ready` does."""
        env = {
            "PENSTOCK_REDIS_URL": self.address(database),
            "ANTHROPIC_BASE_URL": self.simulator.url,
            "ANTHROPIC_API_KEY": SIMULATOR_KEY,
            "C_FORCE_ROOT": "1",
            **self._settings,
            **settings,
        }
        name = f"streams-{database}-{len(self.workers)}"
        worker = WorkerProcess("streams", *options, env=env, name=name).launch()
        self.workers.append(worker)
        return worker

    def ready(self) -> None:
        """Wait until all running workers are ready."""
        for worker in self.alive():
            worker.wait_until_ready()

    def alive(self) -> list[WorkerProcess]:
        """The running workers."""
        return [worker for worker in self.workers if worker.alive]

    def connect(self, database: int) -> Any:
        """A redis-py client of one of its databases, to be closed by the test."""
        return redis.Redis.from_url(self.address(database), decode_responses=True)

    def address(self, database: int) -> str:
        """The URL of a database of the Redis: each has queues and records of its own."""
        return f"{self.redis.url.removesuffix('/0')}/{database}"

    def written(self) -> int:
        """The bytes that Redis has on disk."""
        return self._append_only_file().stat().st_size

    def _append_only_file(self) -> Path:
        [file] = self._folder.glob("appendonlydir/*.incr.aof")
        return file

    def restart_redis(self, *, lose: int = 0, keep: int | None = None) -> None:
        """Kill Redis and restart it without the last ``lose`` bytes on disk, or with only the first
        ``keep``."""
        self.redis.kill()
        self.redis.stop()
        with self._append_only_file().open("r+b") as file:
            file.truncate(self.written() - lose if keep is None else keep)
        self.redis = EmbeddedRedis(folder=self._folder, port=self._port)
        self.redis.start()

    def truth(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The blocks of the complete answer, from the simulator itself."""
        clean = {**body, "messages": body["messages"][:1]}
        content: list[dict[str, Any]] = self._post("/v1/messages", clean)["content"]
        return content

    def input_tokens(self, body: dict[str, Any]) -> int:
        """The input tokens that the API counts for this body."""
        counted = {k: v for k, v in body.items() if k not in ("max_tokens", "stream")}
        return int(self._post("/v1/messages/count_tokens", counted)["input_tokens"])

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        call = urllib.request.Request(  # noqa: S310 - our own address
            f"{self.simulator.url}{path}", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(call, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def worker_of(self, request: StreamRequest) -> WorkerProcess:
        """The worker that runs the request."""
        wait_until(lambda: "worker" in request.record().fields)
        pid = int(request.record().fields["worker"].split(":")[1])
        [worker] = [worker for worker in self.alive() if worker.pid == pid]
        return worker


def request_body(
    prompt: str, faults: str = "", model: str = PREFILL, **fields: Any
) -> dict[str, Any]:
    """A Messages body. Its faults are in a message of their own, which no answer depends on."""
    messages = [{"role": "user", "content": prompt}]
    if faults:
        messages.append({"role": "assistant", "content": "Go on."})
        messages.append({"role": "user", "content": f"Please. {faults}"})
    return {"model": model, "max_tokens": 8192, "messages": messages, **fields}


def events_of(request: StreamRequest, *, timeout: float = 30) -> list[Event]:
    """All events up to the last, after a check of their order."""
    events = list(request.events(timeout=timeout))
    assert [event.n for event in events] == list(range(1, len(events) + 1))
    assert [event.epoch for event in events] == sorted(event.epoch for event in events)
    assert (events[0].type, events[-1].type) == (QUEUED, END)
    assert [event.type for event in events].count(END) == 1
    return events


def content(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The blocks that a reader has at the end."""
    builder = MessageBuilder()
    for event in events:
        builder.apply(event.data)
    return builder.content


def text_of(blocks: Iterable[dict[str, Any]]) -> str:
    """All visible text."""
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def resumes(events: Iterable[Event]) -> list[tuple[str, str]]:
    """Mode and reason of every attempt after the first."""
    return [(e.data["mode"], e.data["reason"]) for e in events if e.type == ATTEMPT]


def rewinds(events: Iterable[Event]) -> list[tuple[int, int]]:
    """Block and offset of every rewind."""
    return [(e.data["index"], e.data["offset"]) for e in events if e.type == REWIND]
