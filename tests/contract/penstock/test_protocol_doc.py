"""docs/protocol.md: it names what there is, and its examples run unchanged."""

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from penstock import events
from penstock.client import Client
from penstock.ids import new_id
from penstock.keys import RecordKeys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.states import State
from penstock.store import request_scripts
from penstock.store.request_scripts import Claimed
from penstock.streams.records import RequestOptions
from penstock.testing import wait_until
from tasks.streams.publish.outbox import Outbox
from tests.connections import redis_of
from tests.scripted import BLOCK, START, delta

PAGE = Path(__file__).resolve().parents[3] / "docs" / "protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")


def block(language: str, containing: str = "") -> str:
    """The one code block in this language that contains some words."""
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (chosen,) = [text for text in found if containing in text]
    return str(chosen)


class Worker:
    """Writes with the worker's own outbox and scripts, and can lose what it publishes."""

    def __init__(self, client: Client) -> None:
        self._redis = redis_of(client)
        self.id = new_id()
        client.messages._records.submit(self.id, "claude-haiku-4-5", b"{}", RequestOptions())
        self._keys = client.settings.keys.request(self.id)
        claim = request_scripts.claim(
            self._keys, client.settings.keys, worker="w", lease_ms=60_000
        ).run(self._redis)
        assert isinstance(claim, Claimed)
        self._box = Outbox(
            client.settings.keys,
            self.id,
            worker="w",
            epoch=claim.epoch,
            n=claim.n,
            ttl_s=100,
            retention_s=50,
        )

    def write(self, data: dict[str, Any], *, publish: bool = True) -> None:
        self._box.add(orjson.dumps(data), data)
        self._flush(publish)

    def end(self, *, publish: bool = True) -> None:
        self._box.end({"state": State.DONE})
        self._flush(publish)

    def _flush(self, publish: bool) -> None:
        call = self._box.next_call()
        assert call is not None
        names = [
            "unused-channel" if key == self._keys.events and not publish else key
            for key in call.keys
        ]
        self._box.apply_reply(call.script(self._redis, names, call.args))
        assert not self._box.lost

    @property
    def subscribers(self) -> int:
        return int(self._redis.pubsub_numsub(self._keys.events)[0][1])


@pytest.fixture
def worker(penstock_client: Client) -> Iterator[Worker]:
    worker = Worker(penstock_client)
    yield worker
    # Real workers of other tests would take it over once its lease has run out.
    penstock_client.messages._records.discard(worker.id)


def test_every_event_type_of_ours_is_described() -> None:
    names = [name for name in vars(events) if name.isupper() and name[0] != "_"]
    ours = [vars(events)[name] for name in names if name != "OWN_PREFIX"]
    assert events.SNAPSHOT in ours
    for kind in ours:
        assert f"| `{kind}` |" in TEXT


def test_the_keys_that_it_names_are_the_keys_that_there_are() -> None:
    named = set(re.findall(r"^\| `penstock:\{R\}:(\w+)` \|", TEXT, re.MULTILINE))
    assert named == {"meta", "log", "text", "events", "typed"}
    assert all(hasattr(RequestKeys, name) for name in named)
    assert {"meta", "log", "events"} <= {name for name in dir(RecordKeys) if name[0] != "_"}


def test_its_event_is_one() -> None:
    event = events.decode(block("json", "content_block_delta").strip())
    assert (event.epoch, event.n, event.type) == (1796077624983, 58, "content_block_delta")


def test_its_events_of_a_job_are_all_that_there_are() -> None:
    shown = [events.decode(line) for line in block("json", "penstock.queued").splitlines()]
    assert [event.type for event in shown] == [
        events.QUEUED,
        events.PROGRESS,
        events.PAUSED,
        events.RESUMED,
        events.ALERT,
        events.END,
    ]
    assert {event.epoch for event in shown} == {0}
    _, _, jobs = TEXT.partition("### Events of a batch job")
    rows = dict(re.findall(r"^\| `(penstock\.\w+)` \|(.*)$", jobs, re.MULTILINE))
    for event in shown:
        documented = re.findall(r"`(\w+)`", rows[event.type])
        assert event.data.keys() - {"type"} <= set(documented)


@pytest.mark.parametrize("late", [False, True])
def test_its_reader_types_the_answer_whatever_messages_are_lost(
    penstock_redis: EmbeddedRedis, worker: Worker, tmp_path: Path, late: bool
) -> None:
    program = tmp_path / "follow.py"
    program.write_text(block("python", "def follow"), encoding="utf-8")
    pieces = [f"<{i} é日本>" for i in range(60)]
    worker.write(START)
    worker.write(BLOCK, publish=False)

    def write() -> None:
        if not late:
            wait_until(lambda: worker.subscribers == 1, what="the program to subscribe")
        for i, piece in enumerate(pieces):
            worker.write(delta(piece), publish=i % 5 not in (1, 2))
        worker.end(publish=False)

    writing = threading.Thread(target=write)
    writing.start()
    if late:
        writing.join()
    done = subprocess.run(
        [sys.executable, program, penstock_redis.url, worker.id],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    writing.join()
    assert (done.stderr.decode(), done.returncode) == ("", 0)
    assert done.stdout.decode() == "".join(pieces)


def commands(id: str) -> list[list[str]]:
    """The session's commands for this request."""
    session = block("sh", "HGETALL")
    lines = [line for line in session.splitlines() if line.startswith("redis-cli ")]
    return [shlex.split(line.replace("$R", id))[1:] for line in lines]


def test_its_read_only_script_reads_at_one_moment_from_a_full_redis(
    penstock_redis: EmbeddedRedis, worker: Worker
) -> None:
    worker.write(START)
    command = shlex.split(block("sh", "EVAL_RO").replace("$R", worker.id))[1:]
    with redis.Redis.from_url(penstock_redis.url, decode_responses=True) as connection:
        connection.config_set("maxmemory", 1)
        try:
            (state, n, _), entries = connection.execute_command(*command)
        finally:
            connection.config_set("maxmemory", 0)
    assert (state, n) == ("running", "2")
    assert [events.decode(fields[1]).n for _, fields in entries] == [1, 2]


def test_its_session_works_when_it_is_pasted(
    penstock_redis: EmbeddedRedis, penstock_client: Client, worker: Worker
) -> None:
    for data in (START, BLOCK, delta("Hello")):
        worker.write(data)
    *asked, (subscribe, channel) = commands(worker.id)
    with redis.Redis.from_url(penstock_redis.url, decode_responses=True) as connection:
        answers = [connection.execute_command(*command) for command in asked]
        record, text, first, last, rest, _, exists, _, _ = answers
        assert (record["state"], record["n"]) == ("running", "4")
        assert text == "Hello"
        epoch = record["epoch"]
        assert [id for id, _ in first] == ["0-1", f"{epoch}-2", f"{epoch}-3"]
        assert [id for id, _ in last] == [f"{epoch}-4"]
        assert [id for id, _ in rest] == [f"{epoch}-2", f"{epoch}-3", f"{epoch}-4"]
        assert exists == 1
        assert subscribe == "SUBSCRIBE"
        with connection.pubsub() as live:
            live.subscribe(channel)
            worker.write(delta("!"))
            wait_until(lambda: (live.get_message(timeout=1) or {}).get("type") == "message")
    assert penstock_client.messages.request(worker.id).record().cancel == "me"


@pytest.mark.parametrize("late", [False, True])
def test_its_reader_never_prints_text_that_is_withdrawn(
    penstock_redis: EmbeddedRedis, worker: Worker, tmp_path: Path, late: bool
) -> None:
    """Neither the first words nor a block of white space."""
    program = tmp_path / "follow.py"
    program.write_text(block("python", "def follow"), encoding="utf-8")
    if late:
        worker.write(START)
    with subprocess.Popen(
        [sys.executable, program, penstock_redis.url, worker.id], stdout=subprocess.PIPE, text=True
    ) as reading:
        wait_until(lambda: worker.subscribers == 1, what="the program to subscribe")
        if not late:
            worker.write(START)
        for data in (BLOCK, delta("The first"), {"type": events.REWIND, "index": 0, "offset": 0}):
            worker.write(data)
        for data in (BLOCK, delta("The second answer is long."), {**BLOCK, "index": 1}):
            worker.write(data)
        assert reading.stdout is not None
        assert reading.stdout.read(26) == "The second answer is long."
        worker.write({**delta("  "), "index": 1})
        worker.write({"type": events.REWIND, "index": 1, "offset": 0})
        worker.write({**BLOCK, "index": 1})
        worker.write({**delta("!"), "index": 1})
        worker.end()
        assert reading.stdout.read() == "!"
    assert reading.returncode == 0
