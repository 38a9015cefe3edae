"""Workers and Redis die under running streams; readers miss no event and see an end."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import Client
from penstock.events import END, Event
from penstock.local.stack import WorkerProcess
from penstock.streams.stream import StreamRequest
from penstock.testing import wait_until
from tests.acceptance.stage import (
    PREFILL,
    USER_TURN,
    Stage,
    content,
    events_of,
    request_body,
    resumes,
    text_of,
)

MODELS = [PREFILL, USER_TURN]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    settings = {
        "PENSTOCK_LEASE_MS": "1500",
        "PENSTOCK_WAKEUP_RETRY_S": "0.5",
        "PENSTOCK_API_RETRY_MAX_WAIT_S": "0.5",
        "PENSTOCK_MAX_WORKER_LOSSES": "5",
    }
    with Stage(**settings) as stage:
        yield stage


@pytest.fixture(autouse=True)
def two_workers(stage: Stage) -> Iterator[None]:
    """Each test begins with two running workers."""
    while len(stage.alive()) < 2:
        stage.launch()
    stage.ready()
    stage.control.reset()
    yield
    stage.control.reset()


@pytest.fixture
def client(stage: Stage) -> Client:
    return stage.client


class Follower:
    """Reads a stream live, in a thread of its own, while the test injects faults."""

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self.events: list[Event] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        from penstock.errors import RedisUnavailable

        cursor = None
        while not self.events or self.events[-1].type != "penstock.end":
            try:
                for event in self._request.events(after=cursor, timeout=30):
                    self.events.append(event)
                    cursor = event.cursor
            except RedisUnavailable:
                continue
            except BaseException as error:
                self._error = error
                return

    def all(self) -> list[Event]:
        """All events after the end; checks that a late reader gets the same."""
        self._thread.join(40)
        assert self._error is None
        assert not self._thread.is_alive()
        assert self.events == events_of(self._request)
        return self.events


def long(prompt: str, model: str = PREFILL, faults: str = "") -> dict[str, Any]:
    """A stream of two seconds."""
    return request_body(f"{prompt} [[sim deltas=60 rate=30]]", faults, model)


def started(client: Client, stage: Stage, body: dict[str, Any]) -> tuple[StreamRequest, Follower]:
    request = client.messages.enqueue(**body)
    follower = Follower(request)
    wait_until(request.text, what="some text")
    return request, follower


def test_another_worker_resumes_the_streams_of_a_killed_one(client: Client, stage: Stage) -> None:
    bodies = [long("Killed.", model) for model in MODELS]
    running = [started(client, stage, body) for body in bodies]
    victim = stage.worker_of(running[0][0])
    hit = [stage.worker_of(request) is victim for request, _ in running]
    victim.kill()
    for body, (request, follower), was_hit in zip(bodies, running, hit, strict=True):
        events = follower.all()
        assert content(events) == stage.truth(body)
        assert request.text() == text_of(content(events))
        assert [reason for _, reason in resumes(events)] == ["takeover"] * was_hit
        assert request.record().fields.get("worker_losses") == ("1" if was_hit else None)


@pytest.mark.parametrize("on_interrupt", ["continue", "fail"])
def test_an_answer_that_lacked_only_its_last_event_is_not_billed_twice(
    client: Client, stage: Stage, on_interrupt: str
) -> None:
    body = request_body("Over. [[sim deltas=6 rate=0]]", "[[sim stall_after=stop stall=600]]")
    request = client.messages.enqueue(on_interrupt=on_interrupt, **body)
    follower = Follower(request)
    wait_until(lambda: any(event.type == "message_delta" for event in follower.events))
    stage.worker_of(request).kill()
    events = follower.all()
    assert content(events) == stage.truth(body)
    assert [event.type for event in events[-3:]] == ["message_delta", "message_stop", END]
    end = events[-1].data
    assert (end["state"], end["attempts"], resumes(events)) == ("done", 1, [])
    assert end["usage"]["output_tokens"] == events[-3].data["usage"]["output_tokens"]
    assert stage.control.stats()["messages_streamed"] == 1


def test_a_worker_that_shuts_down_hands_its_streams_over(client: Client, stage: Stage) -> None:
    bodies = [long(f"Shut down {i}.", model) for i, model in enumerate(MODELS * 3)]
    running = [started(client, stage, body) for body in bodies]
    stage.worker_of(running[0][0]).stop()
    for body, (request, follower) in zip(bodies, running, strict=True):
        assert content(follower.all()) == stage.truth(body)
        # No reaper had to find an expired lease.
        assert not {"worker_losses", "woken"} & request.record().fields.keys()
    assert any(resumes(follower.events) for _, follower in running)


def test_a_paused_worker_cannot_write_after_a_takeover(client: Client, stage: Stage) -> None:
    body = long("Paused.")
    request, follower = started(client, stage, body)
    paused, epoch = stage.worker_of(request), request.record().epoch
    os.kill(paused.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: request.record().epoch > epoch, what="another worker to claim it")
    finally:
        os.kill(paused.pid, signal.SIGCONT)
    events = follower.all()
    assert content(events) == stage.truth(body)
    wait_until(
        lambda: f"request {request.id} skipped" in paused.log.read_text(),
        what="the paused worker to notice",
    )


def test_a_request_that_kills_its_workers_fails(client: Client, stage: Stage) -> None:
    request, follower = started(client, stage, long("Killer."))
    stage.connection.hset(f"penstock:{{{request.id}}}:meta", "worker_losses", 4)
    stage.worker_of(request).kill()
    end = follower.all()[-1].data
    assert (end["state"], end["error"]["type"]) == ("failed", "worker_lost")
    assert end["characters"] == len(request.text()) > 0


def test_two_workers_obey_one_retry_after(client: Client, stage: Stage) -> None:
    stage.control.fault(status=429, retry_after=4, times=0)
    first = client.messages.enqueue(**request_body("Storm. [[sim rate=0]]"))
    wait_until(lambda: stage.control.stats()["refused_429"] == 1, what="the refusal")
    wait_until(lambda: first.record().state == "queued", what="the refusal to be shared")
    others = [
        client.messages.enqueue(**request_body(f"Storm {i}. [[sim rate=0]]")) for i in range(12)
    ]
    wait_until(
        lambda: all("wait_until_ms" in r.record().fields for r in others), what="all to wait"
    )
    stage.control.clear_faults()
    for request in [first, *others]:
        assert events_of(request)[-1].data["state"] == "done"
    assert stage.control.stats()["requests"]["POST /v1/messages"] == {"429": 1, "200": 13}


@pytest.mark.parametrize("lose", [0, 8_000])
def test_readers_miss_no_event_when_redis_is_killed(
    client: Client, stage: Stage, lose: int
) -> None:
    bodies = [long(f"Redis killed {lose}.", model) for model in MODELS]
    running = [started(client, stage, body) for body in bodies]
    for _, follower in running:
        wait_until(lambda each=follower: len(each.events) > 20, what="a good part of it")  # type: ignore[misc]
    stage.restart_redis(lose=lose)
    for body, (request, follower) in zip(bodies, running, strict=True):
        events = follower.all()
        assert content(events) == stage.truth(body)
        assert request.text() == text_of(content(events))
        assert resumes(events) == []


QUIET = "[[sim stall_after=20 stall=5]]"


@pytest.mark.parametrize("quiet", ["", QUIET])
def test_readers_miss_no_event_when_redis_loses_even_the_claim(
    client: Client, stage: Stage, quiet: str
) -> None:
    workers = stage.alive()
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    body = long("Claim lost.", faults=quiet)
    request = client.messages.enqueue(**body)
    size = stage.written()
    for worker in workers:
        os.kill(worker.pid, signal.SIGCONT)
    follower = Follower(request)
    wait_until(lambda: stage.control.stats()["deltas_sent"] >= 20, what="a good part of it")
    wait_until(lambda: len(follower.events) == request.record().n, what="it to be read")
    stage.restart_redis(keep=size)
    assert content(follower.all()) == stage.truth(body)


def test_a_call_whose_claim_redis_lost_is_not_billed_twice(client: Client, stage: Stage) -> None:
    """The wake-up is in the queue again, and another worker consumes it before the first notices
    that Redis is back."""
    events_of(client.messages.enqueue(**request_body("Before. [[sim rate=0]]")))
    stage.control.reset()
    first, second = stage.alive()
    for worker in (first, second):
        os.kill(worker.pid, signal.SIGSTOP)
    body = long("Paid once.")
    request = client.messages.enqueue(**body)
    size = stage.written()
    os.kill(first.pid, signal.SIGCONT)
    follower = Follower(request)
    wait_until(lambda: len(follower.events) > 20, what="a good part of it")
    os.kill(first.pid, signal.SIGSTOP)
    try:
        stage.restart_redis(keep=size)
        os.kill(second.pid, signal.SIGCONT)
        wait_until(
            lambda: stage.connection.llen("streams") == 0,
            what="another worker to consume the wake-up",
        )
    finally:
        os.kill(first.pid, signal.SIGCONT)
    events = follower.all()
    assert content(events) == stage.truth(body)
    assert (resumes(events), events[-1].data["attempts"]) == ([], 1)
    assert stage.control.stats()["messages_streamed"] == 1


def test_requests_that_have_just_begun_survive_a_restart_of_redis(
    client: Client, stage: Stage
) -> None:
    faults = ["", "[[sim slow_first=1]]", "[[sim status=529]]", "[[sim eof_after=2]]"] * 3
    bodies = [request_body(f"Begun {i}. [[sim rate=30]]", fault) for i, fault in enumerate(faults)]
    requests = [client.messages.enqueue(**body) for body in bodies]
    stage.restart_redis()
    # The reaper would check in ten seconds; make the check due now.
    stage.connection.zadd("penstock:live", {request.id: 0 for request in requests})
    for body, request in zip(bodies, requests, strict=True):
        assert content(events_of(request)) == stage.truth(body)


def test_a_stream_waits_while_redis_is_paused(client: Client, stage: Stage) -> None:
    body = long("Redis paused.")
    request, follower = started(client, stage, body)
    os.kill(stage.redis.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: stage.control.stats()["open_streams"] == 0, what="the API to finish")
    finally:
        os.kill(stage.redis.pid, signal.SIGCONT)
    events = follower.all()
    assert content(events) == stage.truth(body)
    assert request.text() == text_of(content(events))


def test_a_stream_waits_while_redis_is_full(client: Client, stage: Stage) -> None:
    body = long("Redis full.")
    request, follower = started(client, stage, body)
    stage.connection.config_set("maxmemory", "1mb")
    try:
        wait_until(lambda: stage.control.stats()["open_streams"] == 0, what="the API to finish")
    finally:
        stage.connection.config_set("maxmemory", "0")
    events = follower.all()
    assert content(events) == stage.truth(body)
    assert request.text() == text_of(content(events))


def test_cut_redis_connections_are_opened_again(client: Client, stage: Stage) -> None:
    body = long("Cut.")
    _, follower = started(client, stage, body)
    for kind in ("normal", "pubsub"):
        stage.connection.client_kill_filter(_type=kind, skipme=True)
    assert content(follower.all()) == stage.truth(body)
    assert resumes(follower.events) == []


def test_a_stream_survives_the_death_of_every_worker_and_redis(
    client: Client, stage: Stage
) -> None:
    body = long("All at once.")
    _, follower = started(client, stage, body)
    dead: list[WorkerProcess] = stage.alive()
    for worker in dead:
        worker.kill()
    stage.restart_redis()
    stage.launch()
    assert content(follower.all()) == stage.truth(body)
