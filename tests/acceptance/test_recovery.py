"""Interrupted answers, waiting requests and canceled requests."""

from collections.abc import Iterator
from hashlib import sha256

import pytest

from penstock import Client, RequestCanceled, RequestFailed, State
from penstock.clock import now_ms
from penstock.events import ATTEMPT, END, Event
from penstock.keys import Keys
from penstock.queue.names import STREAMS_QUEUE, queue_keys
from penstock.simulator.control import Control
from penstock.streams.stream import StreamRequest
from penstock.testing import wait_until
from tests.acceptance.stage import (
    INTERRUPTIONS,
    PREFILL,
    USER_TURN,
    Stage,
    content,
    events_of,
    request_body,
    resumes,
    rewinds,
    text_of,
)

NARROW = 2  #: the database of the worker with two slots
WORKERLESS = 5  #: a database without a worker

TOOL = {
    "name": "open_gate",
    "description": "Open a gate.",
    "input_schema": {"type": "object", "properties": {"gate": {"type": "string"}}},
}
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A worker for many streams, and one for two at a time, each with its own queue."""
    settings = {
        "PENSTOCK_STREAM_IDLE_TIMEOUT_S": "1",
        "PENSTOCK_MAX_ATTEMPTS": "3",
        "PENSTOCK_LEASE_MS": "1500",
        "PENSTOCK_WAKEUP_RETRY_S": "0.5",
        "PENSTOCK_API_RETRY_MAX_WAIT_S": "0.5",
    }
    with Stage(**settings) as stage:
        stage.launch()
        stage.launch(
            database=NARROW, PENSTOCK_STREAMS_CONCURRENCY="2", PENSTOCK_STREAM_IDLE_TIMEOUT_S="60"
        )
        stage.ready()
        yield stage


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    stage.control.reset()
    yield stage.client
    stage.control.reset()


@pytest.fixture
def control(stage: Stage) -> Control:
    return stage.control


@pytest.fixture
def narrow(stage: Stage) -> Iterator[Client]:
    """A client of the worker with two slots."""
    stage.control.reset()
    with Client(stage.address(NARROW)) as client:
        yield client
    stage.control.reset()


@pytest.fixture
def busy(narrow: Client) -> Iterator[list[StreamRequest]]:
    """Two streams that occupy the narrow worker until the test cancels them."""
    stall = "[[sim stall_after=1 stall=600]]"
    requests = [
        narrow.messages.enqueue(**request_body(f"Hold {i}. [[sim rate=0]]", stall))
        for i in range(2)
    ]
    wait_until(
        lambda: all(request.record().state == State.RUNNING for request in requests),
        what="both slots to be taken",
    )
    yield requests
    for request in requests:
        request.cancel()
        events_of(request)


@pytest.mark.parametrize(("model", "mode"), [(PREFILL, "prefill"), (USER_TURN, "user_turn")])
def test_an_answer_is_resumed_to_the_exact_text_after_every_fault(
    client: Client, stage: Stage, model: str, mode: str
) -> None:
    bodies = [
        # Deltas long enough for an answer to be resumable after the first.
        request_body(f"Break {i}. [[sim deltas=12 chars=17 rate=0]]", f"[[sim {fault}]]", model)
        for i, fault in enumerate(INTERRUPTIONS)
    ]
    requests = [client.messages.enqueue(**body) for body in bodies]
    for fault, body, request in zip(INTERRUPTIONS, bodies, requests, strict=True):
        events = events_of(request)
        assert content(events) == stage.truth(body), fault
        if "reset" not in fault:  # a reset may discard data that was sent before it
            assert [each[0] for each in resumes(events)] == [mode], fault
        assert request.text() == text_of(content(events)), fault
        assert events[-1].data["attempts"] == 2, fault


@pytest.mark.parametrize("on_interrupt", ["continue", "restart", "fail"])
def test_an_answer_interrupted_after_its_stop_reason_is_complete(
    client: Client, stage: Stage, control: Control, on_interrupt: str
) -> None:
    faults = ["eof_after=stop", "disconnect_after=stop", "error_after=stop", "stall_after=stop"]
    bodies = [
        request_body(f"Over {i}. [[sim deltas=6 rate=0]]", f"[[sim {fault}]]", tools=[TOOL])
        for i, fault in enumerate(faults)
    ]
    requests = [client.messages.enqueue(on_interrupt=on_interrupt, **body) for body in bodies]
    for body, request in zip(bodies, requests, strict=True):
        events = events_of(request)
        assert content(events) == stage.truth(body)
        assert [event.type for event in events[-3:]] == ["message_delta", "message_stop", END]
        end = events[-1].data
        assert (end["state"], end["stop_reason"], end["attempts"]) == ("done", "tool_use", 1)
        assert end["usage"] == events[-3].data["usage"] | end["usage"]
        assert end["message_stop"] == "lost"
    assert control.stats()["messages_streamed"] == len(faults)


def test_an_answer_too_short_to_resume_is_restarted(client: Client, stage: Stage) -> None:
    body = request_body(
        '[[sim text="ha ha ha, and so on" chars=3 rate=0]]', "[[sim eof_after=1]]", USER_TURN
    )
    events = events_of(client.messages.enqueue(**body))
    assert text_of(content(events)) == "ha ha ha, and so on"
    assert (resumes(events), rewinds(events)) == ([("restart", "incomplete_stream")], [(0, 0)])


@pytest.mark.parametrize("model", [PREFILL, USER_TURN])
def test_a_resumed_answer_gets_what_remains_of_max_tokens(
    client: Client, control: Control, model: str
) -> None:
    body = request_body(
        "Limit. [[sim deltas=30 chars=16 rate=0]]", "[[sim disconnect_after=12]]", model
    )
    request = client.messages.enqueue(**body | {"max_tokens": 100})
    events = events_of(request)
    bodies = [each["body"] for each in control.requests() if each["path"] == "/v1/messages"]
    written = sum(len(text_of_delta(event).encode()) for event in before_the_interruption(events))
    assert [each["max_tokens"] for each in bodies] == [100, 100 - written // 4]
    assert written >= 12 * 16


def before_the_interruption(events: list[Event]) -> list[Event]:
    place = next(i for i, event in enumerate(events) if event.type == ATTEMPT)
    return events[:place]


def text_of_delta(event: Event) -> str:
    text: str = event.data.get("delta", {}).get("text", "")
    return text


@pytest.mark.parametrize("overlap", [20, 400])
def test_text_that_a_model_repeats_when_it_continues_is_not_doubled(
    client: Client, stage: Stage, overlap: int
) -> None:
    body = request_body(
        f"Again. [[sim deltas=20 rate=0 overlap={overlap}]]",
        "[[sim disconnect_after=9]] [[sim eof_after=6]]",
        USER_TURN,
    )
    events = events_of(client.messages.enqueue(**body))
    assert content(events) == stage.truth(body)
    assert [mode for mode, _ in resumes(events)] == ["user_turn", "user_turn"]


@pytest.mark.parametrize("model", [PREFILL, USER_TURN])
def test_an_open_tool_call_is_rewound_and_generated_again(
    client: Client, stage: Stage, model: str
) -> None:
    body = request_body(
        "A gate. [[sim deltas=6 rate=0]]", "[[sim disconnect_after=-2]]", model, tools=[TOOL]
    )
    events = events_of(client.messages.enqueue(**body))
    assert content(events) == stage.truth(body)
    assert content(events)[-1]["type"] == "tool_use"
    assert rewinds(events) == [(1, 0)]


@pytest.mark.parametrize("model", [PREFILL, USER_TURN])
def test_an_open_thinking_block_is_rewound_and_generated_again(
    client: Client, stage: Stage, model: str
) -> None:
    body = request_body(
        "Think. [[sim deltas=6 rate=0]]", "[[sim disconnect_after=2]]", model, thinking=THINKING
    )
    events = events_of(client.messages.enqueue(**body))
    assert content(events) == stage.truth(body)
    assert content(events)[0]["signature"]
    assert (resumes(events)[0][0], rewinds(events)) == ("restart", [(0, 0)])


def test_on_interrupt_restart_discards_the_answer_and_starts_again(
    client: Client, stage: Stage
) -> None:
    body = request_body("Again. [[sim deltas=12 rate=0]]", "[[sim eof_after=5]]")
    request = client.messages.enqueue(on_interrupt="restart", **body)
    events = events_of(request)
    assert content(events) == stage.truth(body)
    assert (resumes(events), rewinds(events)) == ([("restart", "incomplete_stream")], [(0, 0)])
    assert request.text() == text_of(stage.truth(body))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("disconnect_after=5", "connection_error"),
        ("eof_after=5", "incomplete_stream"),
        ("error_after=5 error_type=overloaded_error", "overloaded_error"),
        ("stall_after=5 stall=60", "connection_error"),
    ],
)
def test_on_interrupt_fail_ends_with_the_error_and_keeps_the_text(
    client: Client, stage: Stage, control: Control, fault: str, kind: str
) -> None:
    body = request_body("Fail. [[sim deltas=12 rate=0]]", f"[[sim {fault}]]")
    request = client.messages.enqueue(on_interrupt="fail", **body)
    with pytest.raises(RequestFailed) as failed:
        request.result(timeout=20)
    assert failed.value.error["type"] == kind
    assert failed.value.text == request.text() != ""
    assert text_of(stage.truth(body)).startswith(failed.value.text)
    assert control.stats()["messages_streamed"] == 1


def test_attempts_are_bounded_and_the_last_event_describes_the_kept_text(
    client: Client, stage: Stage, control: Control
) -> None:
    faults = "[[sim disconnect_after=9]] [[sim disconnect_after=6]] [[sim disconnect_after=4]]"
    body = request_body("Never. [[sim deltas=30 rate=0]]", faults)
    request = client.messages.enqueue(on_interrupt="restart", **body)
    end = events_of(request)[-1].data
    kept = request.text()
    assert (end["state"], end["error"]["type"]) == ("failed", "connection_error")
    assert end["attempts"] == control.stats()["messages_streamed"] == 3
    assert text_of(stage.truth(body)).startswith(kept)
    assert (end["characters"], end["text_sha256"]) == (
        len(kept),
        sha256(kept.encode()).hexdigest(),
    )


def test_an_answer_that_is_cut_again_and_again_but_advances_is_completed(
    client: Client, stage: Stage, control: Control
) -> None:
    body = request_body("Always. [[sim deltas=30 rate=0]]", "[[sim disconnect_after=4 times=0]]")
    request = client.messages.enqueue(**body)
    events = events_of(request)
    assert content(events) == stage.truth(body)
    end = events[-1].data
    assert end["attempts"] == control.stats()["messages_streamed"] > 3
    assert end["usage_estimated"] is True


@pytest.mark.parametrize("model", [PREFILL, USER_TURN])
def test_usage_in_the_last_event_adds_up_over_attempts(
    client: Client, stage: Stage, control: Control, model: str
) -> None:
    faults = "[[sim disconnect_after=8]] [[sim eof_after=4]]"
    request = client.messages.enqueue(
        **request_body("Count. [[sim deltas=30 rate=0]]", faults, model)
    )
    end = events_of(request)[-1].data
    bodies = [each["body"] for each in control.requests() if each["path"] == "/v1/messages"]
    assert len(bodies) == end["attempts"] == 3
    assert end["usage"]["input_tokens"] == sum(stage.input_tokens(body) for body in bodies)


def test_an_unknown_model_that_refuses_prefill_gets_a_user_turn(
    client: Client, stage: Stage
) -> None:
    body = request_body(
        "New. [[sim deltas=9 rate=0]]", "[[sim disconnect_after=4]]", "claude-nova-9"
    )
    events = events_of(client.messages.enqueue(**body))
    assert content(events) == stage.truth(body)
    assert resumes(events) == [("user_turn", "connection_error")]


def test_a_request_without_a_worker_is_canceled_at_once(stage: Stage) -> None:
    with Client(stage.address(WORKERLESS)) as client:
        request = client.messages.enqueue(**request_body("No worker. [[sim rate=0]]"))
        assert request.cancel("me") is State.QUEUED
        end = events_of(request)[-1].data
    assert (end["state"], end["by"], end["stop_reason"]) == ("canceled", "me", None)


def test_a_request_is_canceled_before_its_first_byte(client: Client, control: Control) -> None:
    request = client.messages.enqueue(**request_body("Slow.", "[[sim slow_first=0.9]]"))
    wait_until(lambda: control.stats()["open_streams"] == 1, what="the call to be made")
    request.cancel()
    with pytest.raises(RequestCanceled) as canceled:
        request.result(timeout=20)
    assert canceled.value.text == ""
    wait_until(
        lambda: control.stats()["client_disconnects"] == 1, what="the API connection to be closed"
    )


def test_canceled_calls_release_their_places_in_the_rate_limiter(
    client: Client, stage: Stage, control: Control
) -> None:
    model = "claude-haiku-4-5-20991231"  # its limits are not known yet
    slow = [
        client.messages.enqueue(**request_body(f"Slow {i}.", "[[sim slow_first=0.9]]", model))
        for i in range(5)
    ]
    wait_until(lambda: control.stats()["open_streams"] == 5, what="the calls to be made")
    outstanding = Keys().rate_limit_calls(model)
    assert stage.connection.zcard(outstanding) == 5
    for request in slow:
        request.cancel()
    for request in slow:
        events_of(request)
    wait_until(lambda: stage.connection.zcard(outstanding) == 0, what="the calls to be released")


def test_two_redis_commands_cancel_a_stream(client: Client, stage: Stage, control: Control) -> None:
    request = client.messages.enqueue(**request_body("Stop. [[sim deltas=9000 rate=40]]"))
    wait_until(request.text, what="some text")
    stage.connection.hset(f"penstock:{{{request.id}}}:meta", "cancel", "redis-cli")
    stage.connection.publish("penstock:control", request.id)
    end = events_of(request)[-1].data
    assert (end["state"], end["by"]) == ("canceled", "redis-cli")
    assert end["characters"] == len(request.text()) > 0
    wait_until(
        lambda: control.stats()["client_disconnects"] == 1, what="the API connection to be closed"
    )


def calls(control: Control) -> list[str]:
    """The first words of all calls of the API, in order."""
    bodies = [each["body"] for each in control.requests() if each["path"] == "/v1/messages"]
    return [body["messages"][0]["content"].split(".")[0] for body in bodies]


def test_a_message_revoked_in_the_queue_cancels_its_request(
    narrow: Client, busy: list[StreamRequest], control: Control
) -> None:
    request = narrow.messages.enqueue(**request_body("Revoked. [[sim rate=0]]"))
    narrow.wakeups._app.control.revoke(request.id)
    busy[0].cancel()
    end = events_of(request)[-1].data
    assert (end["state"], end["by"]) == ("canceled", "revoke")
    assert "Revoked" not in calls(control)


def test_a_request_whose_deadline_passes_in_the_queue_costs_nothing(
    narrow: Client, busy: list[StreamRequest], control: Control
) -> None:
    request = narrow.messages.enqueue(deadline=0.01, **request_body("Late. [[sim rate=0]]"))
    in_time = narrow.messages.enqueue(deadline=60, **request_body("In time. [[sim rate=0]]"))
    wait_until(lambda: now_ms() > int(request.record().fields["deadline_ms"]))
    busy[0].cancel()
    assert events_of(request)[-1].data["error"]["type"] == "deadline_exceeded"
    assert events_of(in_time)[-1].data["state"] == "done"
    assert "Late" not in calls(control)


def test_a_higher_priority_is_taken_first(
    narrow: Client, busy: list[StreamRequest], control: Control
) -> None:
    wanted = {9: "last", 3: "third", 0: "first"}
    requests = [
        narrow.messages.enqueue(
            priority=priority, **request_body(f"Priority {word}. [[sim rate=0]]")
        )
        for priority, word in wanted.items()
    ]
    busy[0].cancel()
    for request in requests:
        events_of(request)
    order = [words for words in calls(control) if words.startswith("Priority")]
    assert order == ["Priority first", "Priority third", "Priority last"]


def test_a_request_whose_wake_up_was_lost_is_woken_again(
    narrow: Client, busy: list[StreamRequest], stage: Stage
) -> None:
    request = narrow.messages.enqueue(**request_body("Lost. [[sim rate=0]]"))
    database = stage.connect(NARROW)
    assert database.delete(*queue_keys(STREAMS_QUEUE, "penstock")) == 1
    busy[0].cancel()
    # The reaper would check in ten seconds; make the check due now.
    database.zadd("penstock:live", {request.id: 0})
    assert events_of(request)[-1].data["state"] == "done"
    database.close()
