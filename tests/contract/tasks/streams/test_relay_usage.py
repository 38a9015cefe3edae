"""Relay: the usage of calls that were cut, handed over, canceled or lost with their worker."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from penstock.store import request_scripts
from penstock.testing import wait_until
from tasks.streams import claim
from tests.contract.tasks.streams.raw_api import Answer, answer, start, stop, text, whole
from tests.contract.tasks.streams.relay_stage import RelayStage

Perform = Callable[..., Any]

#: 50 deltas of 8 bytes: 100 tokens.
CUT = [*start(), *text(*50 * ["word abc"])]


def thinking(*pieces: str) -> list[dict[str, Any]]:
    block = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    deltas.append({"type": "signature_delta", "signature": 400 * "s"})
    return [
        {"type": "content_block_start", "index": 0, "content_block": block},
        *[{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas],
    ]


def test_a_complete_answer_has_the_usage_that_the_api_reports(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        (result,) = await stage.run(id)
        end = stage.events(id)[-1].data
        assert end["usage"] == {"input_tokens": 20, "output_tokens": 10}
        assert end["usage_estimated"] is False
        assert "usage_estimated" not in result.summary
        assert "usage_estimated" not in stage.record(id)

    perform(test, whole("Hello"))


@pytest.mark.parametrize(
    ("cut", "estimate"),
    [
        (CUT, 100),
        ([*start(output_tokens=170), *text("a")], 170),
        ([start()[0], *thinking(*10 * ["thoughts"])], 20),
        ([*start(), *text(*10 * ["\u20ac\u20ac\u20ac\u20ac"])], 30),
    ],
    ids=["text", "reported", "thinking", "unicode"],
)
def test_the_output_of_a_cut_call_is_estimated(
    perform: Perform, cut: list[dict[str, Any]], estimate: int
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        (result,) = await stage.run(id)
        end = stage.events(id)[-1].data
        assert end["usage"] == {"input_tokens": 40, "output_tokens": estimate + 7}
        assert end["usage_estimated"] is True
        assert result.summary["usage_estimated"] is True
        record = stage.record(id)
        assert orjson.loads(record["usage"]) == end["usage"]
        assert record["usage_estimated"] == "1"

    perform(test, answer(*cut), whole(" and the rest", tokens=7))


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


def received(stage: RelayStage, id: str) -> bool:
    return stage.text(id) == 50 * "word abc"


def test_the_output_of_a_canceled_call_is_estimated(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        running = asyncio.create_task(stage.run(id))
        await until(lambda: received(stage, id))
        await stage.relay.cancel(id, "alice")
        await running
        end = stage.events(id)[-1].data
        assert (end["state"], end["by"]) == ("canceled", "alice")
        assert end["usage"] == {"input_tokens": 20, "output_tokens": 100}
        assert end["usage_estimated"] is True

    perform(test, answer(*CUT, is_silent=True), stream_idle_timeout_s=60)


def test_the_output_of_a_call_that_is_handed_over_is_estimated_once(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        running = asyncio.create_task(stage.relay.run(id))
        await until(lambda: received(stage, id))
        stage.relay.hand_over()
        assert (await running).state == "retry"
        end = await stage.end(id, stage.new_relay("w2"))
        assert (end["state"], end["attempts"]) == ("done", 2)
        assert end["usage"] == {"input_tokens": 40, "output_tokens": 107}
        assert end["usage_estimated"] is True

    perform(test, answer(*CUT, is_silent=True), whole(" end", tokens=7), stream_idle_timeout_s=60)


@pytest.mark.parametrize("page", [1, 1_000])
def test_the_output_of_a_call_whose_worker_was_lost_is_estimated_from_the_log(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(claim, "_PAGE", page)

    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        running = asyncio.create_task(stage.relay.run(id))
        await until(lambda: received(stage, id))
        await lose_worker(stage, id, running)
        end = await stage.end(id, stage.new_relay("w2"))
        assert (end["state"], end["attempts"]) == ("done", 2)
        assert end["usage"] == {"input_tokens": 40, "output_tokens": 107}
        assert end["usage_estimated"] is True

    perform(test, answer(*CUT, is_silent=True), whole(" end", tokens=7), stream_idle_timeout_s=60)


def test_a_worker_that_is_lost_after_the_whole_answer_leaves_nothing_to_estimate(
    perform: Perform,
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        running = asyncio.create_task(stage.relay.run(id))
        await until(lambda: any(e.type == "message_delta" for e in stage.events(id)))
        await lose_worker(stage, id, running)
        end = await stage.end(id, stage.new_relay("w2"))
        assert (end["state"], end["attempts"], stage.api.calls) == ("done", 1, 1)
        assert end["usage"] == {"input_tokens": 20, "output_tokens": 99}
        assert end["usage_estimated"] is False

    almost = [*CUT, *stop(99)[:2]]
    perform(test, answer(*almost, is_silent=True), stream_idle_timeout_s=60)


async def lose_worker(stage: RelayStage, id: str, running: "asyncio.Task[Any]") -> None:
    """Stop a worker as if it had been killed: its lease expires without a release."""
    running.cancel()
    await asyncio.wait({running})
    stage.connection.delete(stage.settings.keys.request(id).lease)


def test_a_call_that_was_canceled_before_its_answer_has_unknown_usage(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        running = asyncio.create_task(stage.run(id))
        await stage.api.sent.wait()
        await stage.relay.cancel(id, "alice")
        await running
        end = stage.events(id)[-1].data
        assert (end["attempts"], end["usage_estimated"]) == (1, True)

    perform(test, Answer(is_silent=True), stream_idle_timeout_s=60)


@pytest.mark.parametrize("is_lost", [False, True], ids=["handed over", "lost"])
def test_a_call_without_an_answer_yet_is_not_repeated_by_the_next_worker_for_on_interrupt_fail(
    perform: Perform, is_lost: bool
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit(on_interrupt="fail")
        running = asyncio.create_task(stage.relay.run(id))
        await stage.api.sent.wait()
        if is_lost:
            await lose_worker(stage, id, running)
        else:
            stage.relay.hand_over()
            assert (await running).state == "retry"
        end = await stage.end(id, stage.new_relay("w2"))
        assert (end["state"], end["error"]["type"]) == ("failed", "worker_lost")
        assert stage.api.calls == 1

    perform(test, Answer(is_silent=True), whole("Hello"), stream_idle_timeout_s=60)


def test_a_call_that_is_handed_over_before_its_answer_is_an_attempt(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        running = asyncio.create_task(stage.relay.run(id))
        await stage.api.sent.wait()
        stage.relay.hand_over()
        assert (await running).state == "retry"
        end = await stage.end(id, stage.new_relay("w2"))
        assert (end["state"], end["attempts"], end["usage_estimated"]) == ("done", 2, True)

    perform(test, Answer(is_silent=True), whole("Hello"), stream_idle_timeout_s=60)


def test_a_record_of_an_earlier_version_is_continued_without_an_estimate(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        keys, shared = stage.settings.keys.request(id), stage.settings.keys
        request_scripts.claim(keys, shared, worker="old", lease_ms=1).run(stage.connection)
        stage.connection.hset(keys.meta, "epoch", 1)  # the earlier version counted claims
        spent = orjson.dumps({"input_tokens": 20, "output_tokens": 1})
        stage.connection.hset(keys.meta, mapping={"attempts": 1, "spent": spent})
        stage.connection.delete(keys.lease)
        end = await stage.end(id)
        assert (end["state"], end["attempts"]) == ("done", 2)
        assert end["usage"] == {"input_tokens": 40, "output_tokens": 11}
        assert end["usage_estimated"] is False

    perform(test, whole("Hello"))


def test_the_last_event_has_the_details_of_the_stop_reason(perform: Perform) -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}

    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit())
        assert (end["stop_reason"], end["stop_details"]) == ("refusal", details)

    events = [*start(), *text("Hello"), *stop(5, "refusal", stop_details=details)]
    perform(test, answer(*events))
