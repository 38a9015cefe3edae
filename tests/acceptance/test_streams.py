"""Streams through a real worker, a real Redis and real HTTP."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from penstock import Client, RequestCanceled, RequestFailed, State
from penstock.events import END, QUEUED
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import SimulatorProcess, WorkerProcess
from penstock.simulator.control import Control
from penstock.testing import wait_until

Body = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")

WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def direct(simulator: SimulatorProcess, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events that the API itself sends for this body."""
    import anthropic

    with (
        anthropic.Anthropic(base_url=simulator.url, api_key="k", max_retries=0) as api,
        api.messages.create(**body, stream=True) as events,
    ):
        return [event.model_dump(mode="json", exclude_unset=True) for event in events]


def text_of(events: list[Any]) -> str:
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    return "".join(d["text"] for d in deltas if d["type"] == "text_delta")


def test_a_stream_carries_the_answer_exactly_as_the_api_sent_it(
    penstock_client: Client, penstock_simulator: SimulatorProcess, body: Body
) -> None:
    request = body("Describe dams. [[sim deltas=40 rate=0]]")
    with penstock_client.messages.stream(**request, timeout=20) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == text_of(direct(penstock_simulator, request))
    assert message.content[0].to_dict() == {"type": "text", "text": text}
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0


def test_the_last_event_has_state_usage_timing_and_hash(
    penstock_client: Client, body: Body
) -> None:
    with penstock_client.messages.stream(**body("[[sim rate=0]] hello"), timeout=20) as stream:
        text = stream.get_final_text()
    end = stream.end
    assert end is not None
    assert end.state == State.DONE
    assert end.text_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert end.usage.output_tokens > 0
    assert end.first_delta_ms <= end.total_ms
    record = stream.request.record()
    assert record.state is State.DONE
    # The workers of the tests use the simulator.
    assert end.simulated is True
    assert record.fields["simulated"] == "1"
    assert stream.request.text() == text


def test_the_first_delta_arrives_before_the_last_one_is_sent(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    # The API stalls after its fifth delta: a reader that gets the first one gets it live.
    request = body("[[sim deltas=10 rate=0 stall_after=5 stall=600]]")
    stream = penstock_client.messages.stream(**request, timeout=20)
    first = next(stream.text_stream)
    assert first
    stats = penstock_control.stats()
    assert stats["open_streams"] == 1
    assert stats["messages_finished"] == 0
    stream.cancel()
    wait_until(
        lambda: penstock_control.stats()["open_streams"] == 0,
        what="the API connection to be closed",
    )


def test_tool_input_arrives_as_it_is_written(penstock_client: Client, body: Body) -> None:
    request = body("Weather? [[sim rate=0]]", tools=[WEATHER])
    with penstock_client.messages.stream(**request, timeout=20) as stream:
        events = list(stream)
        message = stream.get_final_message()
    started = [e.content_block for e in events if e.type == "content_block_start"]
    assert [block.name for block in started if block.type == "tool_use"] == ["get_weather"]
    pieces = [e.delta for e in events if e.type == "content_block_delta"]
    assert any(delta.type == "input_json_delta" for delta in pieces)
    tool = message.content[-1]
    assert tool.type == "tool_use"
    assert isinstance(tool.input, dict)
    assert "city" in tool.input


def test_thinking_and_its_signature_reach_the_reader(penstock_client: Client, body: Body) -> None:
    request = body("Think. [[sim rate=0]]", thinking={"type": "enabled", "budget_tokens": 1024})
    with penstock_client.messages.stream(**request, timeout=20) as stream:
        message = stream.get_final_message()
    thinking = message.content[0]
    assert thinking.type == "thinking"
    assert thinking.thinking
    assert thinking.signature


@pytest.mark.parametrize("directive", ["chunk=1", "chunk=7 crlf", "crlf", "u2028"])
def test_the_answer_is_exact_wherever_the_bytes_are_cut(
    penstock_client: Client, penstock_simulator: SimulatorProcess, body: Body, directive: str
) -> None:
    request = body(f"Ünïcödé 日本 [[sim deltas=12 rate=0 {directive}]]")
    with penstock_client.messages.stream(**request, timeout=20) as stream:
        text = stream.get_final_text()
    assert text == text_of(direct(penstock_simulator, request))


@pytest.mark.parametrize(
    ("directive", "kind"),
    [
        ("disconnect_after=3", "connection_error"),
        ("eof_after=3", "incomplete_stream"),
        ("error_after=3 error_type=overloaded_error", "overloaded_error"),
    ],
)
def test_an_interrupted_answer_is_never_mistaken_for_a_complete_one(
    penstock_client: Client, body: Body, directive: str, kind: str
) -> None:
    request = body(f"[[sim deltas=9 rate=100 {directive}]]")
    stream = penstock_client.messages.stream(**request, on_interrupt="fail", timeout=20)
    with pytest.raises(RequestFailed) as failed:
        stream.until_done()
    assert failed.value.error["type"] == kind
    assert failed.value.text == stream.request.text() != ""


def test_a_refused_request_returns_to_the_queue_until_the_api_accepts_it(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    request = body("[[sim deltas=5 rate=0 status=529 times=2]]")
    with penstock_client.messages.stream(**request, timeout=20) as stream:
        assert stream.get_final_text()
    statuses = penstock_control.stats()["requests"]["POST /v1/messages"]
    assert statuses == {"529": 2, "200": 1}


def test_a_spend_limit_is_final(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    limit = "status=429 error_code=enforced_spend_limit_reached times=0"
    stream = penstock_client.messages.stream(**body(f"[[sim {limit}]]"), timeout=20)
    with pytest.raises(RequestFailed, match="rate_limit_error"):
        stream.until_done()
    assert penstock_control.stats()["requests"]["POST /v1/messages"] == {"429": 1}


def test_the_apis_error_message_reaches_the_reader(penstock_client: Client, body: Body) -> None:
    stream = penstock_client.messages.stream(**body(model="gpt-4"), timeout=20)
    with pytest.raises(RequestFailed, match="not_found_error: model: gpt-4") as failed:
        stream.until_done()
    assert failed.value.error["status"] == 404
    assert failed.value.error["request_id"].startswith("req_")


def test_cancel_closes_the_api_connection_and_keeps_the_text(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    request = body("[[sim deltas=2000 rate=50]]")
    stream = penstock_client.messages.stream(**request, timeout=20)
    first = next(stream.text_stream)
    stream.cancel()
    with pytest.raises(RequestCanceled) as canceled:
        stream.until_done()
    assert canceled.value.text.startswith(first)
    assert stream.request.text() == canceled.value.text
    wait_until(lambda: penstock_control.stats()["client_disconnects"] == 1)


def test_a_second_wake_up_for_the_same_request_does_nothing(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body("[[sim deltas=30 rate=60]]"))
    penstock_client.wakeups.stream(request.id, "claude-haiku-4-5")
    events = list(request.events(timeout=20))
    penstock_client.wakeups.stream(request.id, "claude-haiku-4-5")
    another = penstock_client.messages.enqueue(**body("[[sim rate=0]]"))
    another.stream(timeout=20).until_done()
    assert [event.n for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events].count(END) == 1
    assert penstock_control.stats()["messages_streamed"] == 2


def test_a_late_reader_gets_every_event(penstock_client: Client, body: Body) -> None:
    request = penstock_client.messages.enqueue(**body("[[sim deltas=50 rate=200]]"))
    live = list(request.events(timeout=20))
    late = list(request.events(timeout=20))
    assert live == late
    assert live[0].type == QUEUED
    resumed = list(request.events(after=live[9].cursor, timeout=20))
    assert resumed == live[10:]


def test_the_typed_channel_carries_the_bare_text(
    penstock_client: Client, penstock_redis: EmbeddedRedis, body: Body
) -> None:
    import redis

    with redis.Redis.from_url(penstock_redis.url) as connection:
        channel = connection.pubsub()
        channel.psubscribe("penstock:*:typed")
        assert channel.get_message(timeout=5)
        request = penstock_client.messages.enqueue(typed=True, **body("[[sim rate=0]]"))
        text = request.stream(timeout=20).get_final_text()
        typed = ""
        while typed != text and (message := channel.get_message(timeout=5)):
            typed += message["data"].decode()
        channel.close()
    assert typed == text


def test_no_prompt_and_no_answer_reaches_queue_or_log(
    penstock_client: Client, penstock_workers: list[WorkerProcess], body: Body
) -> None:
    secret = "xyzzy-the-secret-word"
    request = body(f"[[sim text={secret}-answered rate=0]] {secret}")
    with penstock_client.messages.stream(**request, timeout=20) as stream:
        assert secret in stream.get_final_text()
    refused = penstock_client.messages.stream(**body(f"{secret} [[sim status=400]]"), timeout=20)
    with pytest.raises(RequestFailed):
        refused.until_done()
    for worker in penstock_workers:
        log = worker.log.read_text()
        assert f"{secret}-answered" not in log
        assert secret not in log


def test_one_process_carries_more_than_a_hundred_streams_at_a_time(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    # By default aiohttp opens at most 100 connections, and further calls wait silently.
    enqueue = penstock_client.messages.enqueue
    requests = [
        enqueue(**body(f"{i} [[sim deltas=5 rate=0 stall_after=2 stall=600]]")) for i in range(120)
    ]
    wait_until(lambda: penstock_control.stats()["open_streams"] == 120)
    for request in requests:
        request.cancel()
    wait_until(lambda: all(request.state.ended for request in requests))
