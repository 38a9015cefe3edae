"""The canary on a real Redis and the simulator: live calls first, then the other shards."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import orjson
import pytest

from penstock.batches.jobs import JobRecords
from penstock.batches.shard import Shard
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from penstock.simulator.process import simulator
from tasks.batches.claim import Fenced
from tasks.batches.step_result import Next, Parked, RetryIn, StepResult
from tests.contract.jobs import expect, params
from tests.contract.tasks.batches.creating import Creating, Killed

MESSAGES = "/v1/messages"


@pytest.fixture(scope="module")
def quick_simulator() -> Iterator[Control]:
    with simulator(batch_seconds=3600, rate=0, deltas=3) as control:
        yield control


@pytest.fixture
def creating(penstock_redis: EmbeddedRedis, quick_simulator: Control) -> Iterator[Creating]:
    quick_simulator.reset()
    creating = Creating(penstock_redis, quick_simulator)
    yield creating
    creating.close()


def submit(creating: Creating, *texts: str) -> str:
    """A job whose first shard is a canary."""
    id = creating.submit([params(text) for text in texts], [params("bulk")], waiting_for_canary="1")
    creating.desk.change(id, live=True)
    return id


def results(creating: Creating, id: str) -> dict[int, Any]:
    """The results of a collected canary, by index."""
    shard = creating.shard(id)
    lines = creating.desk.lines(id, shard.results, shard.result_chunks)
    assert len(lines) == shard.result_lines
    assert all(line.startswith(b'{"custom_id":"%s-' % shard.nonce.encode()) for line in lines)
    parsed = [orjson.loads(line) for line in lines]
    found = {int(each["custom_id"][13:]): each["result"] for each in parsed}
    assert len(found) == len(lines)
    return found


def calls(creating: Creating) -> int:
    return sum(each["path"] == MESSAGES for each in creating.control.requests())


def test_the_canary_makes_live_calls_and_wakes_the_other_shards(creating: Creating) -> None:
    id = submit(creating, *"abcdef")
    assert expect(RetryIn, creating.step(id, 1)).seconds > 60
    step = creating.step(id)
    shard = creating.shard(id)
    assert isinstance(step, Next)
    assert step.wake == (1,)
    assert (shard.state, shard.counts.succeeded, shard.counts.total) == ("collected", 6, 6)
    found = results(creating, id)
    assert {index: result["type"] for index, result in found.items()} == dict.fromkeys(
        range(6), "succeeded"
    )
    assert all(result["message"]["type"] == "message" for result in found.values())
    used = [result["message"]["usage"]["output_tokens"] for result in found.values()]
    assert sum(tokens["output_tokens"] for tokens in shard.usage.values()) == sum(used)
    assert (creating.meta(id, "left"), creating.meta(id, "waiting_for_canary")) == ("1", "")
    assert creating.control.batches() == []
    creating.step(id, 1)
    assert len(creating.control.batches()) == 1
    paid = creating.control.paid()
    assert [paid[name]["live"] for name in creating.hashes([params(t) for t in "abcdef"])] == [
        1
    ] * 6


def test_a_rejected_request_pauses_the_job_once_and_is_a_result(creating: Creating) -> None:
    id = submit(creating, *"abcdefgh")
    creating.control.fault(status=400, message="a bad word", path=MESSAGES, times=4)
    step = creating.step(id)
    assert isinstance(step, Parked)
    paused = orjson.loads(creating.meta(id, "paused"))
    assert (paused["type"], paused["message"]) == ("canary_failed", "a bad word")
    assert creating.shard(id).state == "planned"
    assert calls(creating) == 4  # those that were under way
    assert creating.control.batches() == []
    assert isinstance(creating.step(id, 1), Parked)

    JobRecords(creating.desk.connection, creating.desk.settings).resume(id, "me")
    creating.control.fault(status=413, path=MESSAGES, times=1)
    assert expect(Next, creating.step(id)).wake == (1,)
    shard = creating.shard(id)
    assert (shard.counts.errored, shard.counts.succeeded) == (5, 3)
    assert sum(shard.errors.values()) == 5
    assert calls(creating) == 8
    errors = [r["error"]["error"] for r in results(creating, id).values() if "error" in r]
    assert "a bad word" in {error["message"] for error in errors}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, ""),
        (403, ""),
        (400, "Your credit balance is too low."),
        (400, "Credit balance too low."),
        (422, "The Usage Limit of this workspace is reached."),
    ],
)
def test_a_call_that_the_account_cannot_make_is_made_again_after_the_job_is_resumed(
    creating: Creating, status: int, message: str
) -> None:
    id = submit(creating, "a", "b")
    creating.control.fault(status=status, message=message, path=MESSAGES, times=2)
    step = creating.dispatch(id)
    assert isinstance(step, Parked)
    assert orjson.loads(creating.meta(id, "paused"))["type"] != "canary_failed"
    JobRecords(creating.desk.connection, creating.desk.settings).resume(id, "me")
    creating.dispatch(id)
    assert creating.shard(id).counts.succeeded == 2


def test_an_overloaded_api_is_retried_only_for_requests_without_an_answer(
    creating: Creating,
) -> None:
    id = submit(creating, "a", "b", "c")
    creating.control.fault(status=529, path=MESSAGES, times=1)
    step = creating.dispatch(id)
    assert expect(RetryIn, step).seconds
    assert creating.shard(id).state == "planned"
    creating.dispatch(id)
    assert creating.shard(id).counts.succeeded == 3
    assert calls(creating) == 4
    assert all(each == {"batch": 0, "live": 1} for each in creating.control.paid().values())


def test_an_html_page_in_place_of_an_answer_does_not_lose_other_answers(creating: Creating) -> None:
    id = submit(creating, "a", "b", "c", "d")
    page_sent = threading.Event()
    answered = orjson.loads(b'{"type":"message","role":"assistant","model":"m","content":[]}')

    def answer(request: httpx2.Request) -> httpx2.Response:
        if orjson.loads(request.read())["messages"][0]["content"] == "b":
            page_sent.set()
            return httpx2.Response(200, html="<html>Log in</html>")
        assert page_sent.wait(30)
        return httpx2.Response(200, json=answered)

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    with anthropic.Anthropic(api_key="k", http_client=client, max_retries=0) as api:
        step = creating.dispatch(id, api=api)
    assert "unexpected_response" in expect(RetryIn, step).reason
    assert creating.shard(id).counts.succeeded == 3


class OddApi:
    """An API whose live calls are answered by a test."""

    def __init__(self, answer: Callable[[], httpx2.Response]) -> None:
        self.calls = 0
        self._answer = answer

    def run(self, creating: Creating, id: str) -> StepResult:
        def answer(request: httpx2.Request) -> httpx2.Response:
            assert orjson.loads(request.read())["stream"] is True
            self.calls += 1
            return self._answer()

        client = httpx2.Client(transport=httpx2.MockTransport(answer))
        with anthropic.Anthropic(api_key="k", http_client=client, max_retries=0) as api:
            return creating.dispatch(id, api=api)


def timed_out() -> httpx2.Response:
    raise httpx2.ReadTimeout("silence")


def broken() -> Iterator[bytes]:
    yield b'data: {"type":"message_start","message":{"type":"message","content":[]}}\n\n'
    raise httpx2.RemoteProtocolError("closed")


UNANSWERED: list[tuple[Callable[[], httpx2.Response], str]] = [
    (timed_out, "silence"),
    (lambda: httpx2.Response(200, html="<html>Log in</html>"), "<html>Log in"),
    (lambda: httpx2.Response(200, json={"error": {"message": "odd", "code": 1}}), "odd"),
    (lambda: httpx2.Response(200, json={"type": "message", "content": None}), "not a message"),
    (lambda: httpx2.Response(200, content=b"null"), "null"),
    (lambda: httpx2.Response(200, content=broken()), "closed"),
    (lambda: httpx2.Response(200, content=b"data: [[[\n\n"), "[[["),
    (lambda: httpx2.Response(502, html="<html>Bad gateway</html>"), "HTTP 502"),
]


@pytest.mark.parametrize(("answer", "fault"), UNANSWERED)
def test_a_canary_pauses_the_job_after_two_calls_without_an_answer(
    creating: Creating, answer: Callable[[], httpx2.Response], fault: str
) -> None:
    id = submit(creating, "a")
    creating.cap(id, 10**6)
    api = OddApi(answer)
    assert expect(RetryIn, api.run(creating, id)).seconds
    first = creating.shard(id).live_calls_cost
    assert first > 0
    assert isinstance(api.run(creating, id), Parked)
    paused = orjson.loads(creating.meta(id, "paused"))
    assert paused["type"] == "canary_unanswered"
    assert fault in paused["message"]
    assert api.calls == 2
    [(_, last)] = creating.desk.connection.xrevrange(creating.desk.keys(id).log, count=1)
    assert orjson.loads(last[b"d"])["data"]["type"] == "penstock.paused"

    JobRecords(creating.desk.connection, creating.desk.settings).resume(id, "me")
    api.run(creating, id)
    assert isinstance(api.run(creating, id), Parked)
    assert api.calls == 4, "once it is resumed, two more calls are made"
    JobRecords(creating.desk.connection, creating.desk.settings).resume(id, "me")
    assert isinstance(creating.dispatch(id), Next)
    shard = creating.shard(id)
    assert (shard.counts.succeeded, shard.live_calls_cost) == (1, 4 * first)
    money = creating.desk.connection.hgetall(creating.desk.keys(id).money)
    assert int(money[b"spent"]) > 4 * first
    assert money.keys() == {b"cap", b"spent"}


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_call_that_the_api_refuses_is_not_counted(creating: Creating, status: int) -> None:
    id = submit(creating, "a")
    api = OddApi(lambda: httpx2.Response(status, json={}))
    for _ in range(5):
        assert isinstance(api.run(creating, id), RetryIn)
    assert (creating.shard(id).live_calls, creating.shard(id).live_calls_cost) == ({}, 0)


def test_an_overloaded_error_before_the_answer_is_a_refusal(creating: Creating) -> None:
    id = submit(creating, "a")
    event = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'
    api = OddApi(lambda: httpx2.Response(200, content=event))
    for _ in range(5):
        assert isinstance(api.run(creating, id), RetryIn)
    assert creating.shard(id).live_calls == {}


def test_calls_without_an_answer_count_for_the_cost_cap_of_the_next_call(
    creating: Creating,
) -> None:
    id = submit(creating, "a")
    creating.cap(id, 230)  # enough for one call of 20 tokens at most, and not for two
    api = OddApi(timed_out)
    assert isinstance(api.run(creating, id), RetryIn)
    creating.cap(id, creating.shard(id).live_calls_cost + 1)
    assert isinstance(api.run(creating, id), Parked)
    assert orjson.loads(creating.meta(id, "paused"))["type"] == "cost_limit"
    assert api.calls == 1


def test_workers_that_die_during_the_calls_pause_the_job(creating: Creating) -> None:
    id = submit(creating, "a")

    def die() -> None:
        raise Killed

    for _ in range(2):
        with creating.hooked("response", die) as api, pytest.raises(Killed):
            creating.step(id, api=api)
        creating.desk.connection.delete(creating.desk.keys(id).shard_lease(0))
    assert isinstance(creating.dispatch(id), Parked)
    assert orjson.loads(creating.meta(id, "paused"))["type"] == "canary_unanswered"
    assert calls(creating) == 2


def test_a_complete_message_in_place_of_a_stream_is_the_answer(creating: Creating) -> None:
    id = submit(creating, "a")
    message = {"type": "message", "role": "assistant", "model": "m", "content": [], "usage": []}
    api = OddApi(lambda: httpx2.Response(200, json=message))
    assert isinstance(api.run(creating, id), Next)
    assert results(creating, id)[0] == {"type": "succeeded", "message": message}
    assert creating.shard(id).live_calls == {}


def test_missing_requests_pause_the_job(creating: Creating) -> None:
    id = submit(creating, "a")
    creating.desk.connection.delete(creating.desk.keys(id).chunks("requests-0"))
    assert isinstance(creating.dispatch(id), Parked)
    assert orjson.loads(creating.meta(id, "paused"))["type"] == "requests_missing"
    assert calls(creating) == 0


def test_a_killed_canary_repeats_only_the_calls_that_were_under_way(creating: Creating) -> None:
    id = submit(creating, *"abcdefgh")
    answers = iter(range(100))

    def die() -> None:
        if next(answers) == 5:
            raise Killed

    with creating.hooked("response", die) as api, pytest.raises(Killed):
        creating.step(id, api=api)
    shard: Shard = creating.shard(id)
    assert (shard.state, shard.results) == ("planned", "")
    assert 0 < shard.result_lines < 8
    creating.step(id)
    assert len(results(creating, id)) == 8
    repeated = calls(creating) - 8
    assert 1 <= repeated <= 4


def test_a_fenced_canary_stores_nothing_more(creating: Creating) -> None:
    id = submit(creating, "a", "b")
    first_call, taken_over = threading.Lock(), threading.Event()

    def take_over_once() -> None:
        with first_call:  # both calls are sent after it, and neither takes over a second time
            if not taken_over.is_set():
                creating.desk.take_over(id)
                taken_over.set()

    with creating.hooked("request", take_over_once) as api, pytest.raises(Fenced):
        creating.step(id, api=api)
    assert creating.shard(id).result_lines == 0
    creating.desk.connection.delete(creating.desk.keys(id).shard_lease(0))
    creating.step(id)
    assert len(results(creating, id)) == 2


def test_a_canceled_canary_keeps_its_answers(creating: Creating) -> None:
    id = submit(creating, *"abcdef")
    creating.control.fault(status=529, path=MESSAGES, times=1)
    creating.dispatch(id)
    answered = creating.shard(id).counts.succeeded
    creating.cancel(id)
    creating.dispatch(id)
    shard = creating.shard(id)
    assert (shard.state, shard.counts.succeeded) == ("collected", answered)
    assert shard.counts.canceled == 6 - answered
    assert len(results(creating, id)) == 6
    untouched = submit(creating, "a")
    creating.cancel(untouched)
    creating.dispatch(untouched)
    assert creating.shard(untouched).uniform_result == {"type": "canceled"}


def test_a_canary_is_reserved_under_the_cost_cap_at_the_live_price(creating: Creating) -> None:
    id = submit(creating, "a")
    creating.cap(id, 10**6)
    creating.step(id)
    money = creating.desk.connection.hgetall(creating.desk.keys(id).money)
    assert money.keys() == {b"cap", b"spent"}
    assert int(money[b"spent"]) > 0
    other = submit(creating, "a")
    creating.cap(other, 1)
    assert isinstance(creating.step(other), Parked)
    assert orjson.loads(creating.meta(other, "paused"))["type"] == "cost_limit"
