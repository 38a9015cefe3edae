"""Submission of batch jobs to a real Redis: requests, shards, chunks and lifetimes."""

from typing import Any

import orjson
import pytest
from anthropic import NOT_GIVEN

from penstock.batches import submission
from penstock.batches.numbered import NumberedRequests
from penstock.batches.shard import Counts
from penstock.batches.wire import BODY_HEAD, BODY_TAIL, LINE_HEAD, LINE_TAIL, PARAMS, wire_id
from penstock.client import Client
from penstock.errors import InvalidRequest
from penstock.states import State
from tests.contract.penstock.batches.submitting import (
    SETTINGS,
    contents,
    keys_of,
    many,
    read,
    request,
    stored,
    wakeups_sent,
)


def test_every_request_is_stored_in_order_with_its_position(
    connection: Any, producer: Client, small_chunks: None
) -> None:
    asked = list(many(100, "\u2028 \r\n\u0085"))
    job = producer.messages.batches.create(requests=iter(asked), shard_requests=40)
    assert job.request_counts == Counts(processing=100)
    assert (job.state, job.model) == (State.QUEUED, "claude-haiku-4-5")
    found = [contents(connection, job.id, shard) for shard in job.shards]
    assert [params for held, _ in found for params in held] == [each["params"] for each in asked]
    assert [pair for _, pairs in found for pair in pairs] == [
        (number, f"id-{number}") for number in range(100)
    ]
    assert all(shard.request_chunks > 5 for shard in job.shards)
    assert sum(shard.requests for shard in job.shards) == 100
    assert [shard.number for shard in job.shards] == [0, 1, 2]
    assert all(shard.requests in (39, 40) for shard in job.shards[:2])
    assert wakeups_sent(connection) == 3


def test_a_shard_whose_last_request_fills_all_its_chunks_has_no_empty_chunk(
    connection: Any, producer: Client, small_chunks: None
) -> None:
    asked = [request(f"{number}-{'i' * 60}") for number in range(16)]
    job = producer.messages.batches.create(requests=asked, shard_requests=8)
    for shard in job.shards:
        _, pairs = contents(connection, job.id, shard)
        assert [name for _, name in pairs] == [
            asked[position]["custom_id"] for position, _ in pairs
        ]
        assert (shard.requests, len(pairs), shard.id_chunks) == (8, 8, 1)


def test_a_shard_has_the_size_of_its_body_and_its_size_by_model(
    connection: Any, producer: Client
) -> None:
    asked = [request("a", "日"), request("b", model="claude-other", max_tokens=5), request("c")]
    job = producer.messages.batches.create(requests=asked)
    (shard,) = job.shards
    lines = stored(connection, job.id, "requests-0", shard.request_chunks)
    pieces = [
        LINE_HEAD + wire_id("n" * 12, index).encode() + PARAMS + line + LINE_TAIL
        for index, line in enumerate(lines)
    ]
    body = BODY_HEAD + b",".join(pieces) + BODY_TAIL
    assert len(body) == shard.size
    assert [each["params"] for each in orjson.loads(body)["requests"]] == [
        each["params"] for each in asked
    ]
    assert (shard.first, shard.last, shard.requests) == (0, 2, 3)
    assert shard.size_by_model == {
        "claude-haiku-4-5": [len(lines[0]) + len(lines[2]), 18, 0],
        "claude-other": [len(lines[1]), 5, 0],
    }


def test_each_set_of_betas_has_its_own_shards(connection: Any, producer: Client) -> None:
    asked = [
        request("a"),
        {**request("b"), "betas": ["one", "everywhere"]},
        request("c"),
        {**request("d"), "betas": ["two", "one"]},
        {**request("e"), "betas": ["one"]},
    ]
    job = producer.messages.batches.create(
        requests=asked, betas=["everywhere"], extra_headers={"anthropic-version": "2023-06-01"}
    )
    placed = {shard.betas: contents(connection, job.id, shard)[1] for shard in job.shards}
    assert placed == {
        ("everywhere",): [(0, "a"), (2, "c")],
        ("everywhere", "one"): [(1, "b"), (4, "e")],
        ("everywhere", "one", "two"): [(3, "d")],
    }
    assert [(shard.first, shard.last) for shard in job.shards] == [(0, 2), (1, 4), (3, 3)]
    assert wakeups_sent(connection) == 3
    headers = read(connection, job.id).record.json("headers")
    assert headers == {"anthropic-version": "2023-06-01"}


def test_many_sets_of_betas_need_no_more_memory_than_one(
    connection: Any, producer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_MAX_OPEN_BYTES", 2_000)
    asked = [{**request(f"id-{i}", "x" * 99), "betas": [f"beta-{i % 20}"]} for i in range(200)]
    job = producer.messages.batches.create(requests=asked)
    assert [shard.requests for shard in job.shards] == [10] * 20
    assert max(shard.request_chunks for shard in job.shards) > 1
    texts = [contents(connection, job.id, shard)[1] for shard in job.shards]
    assert texts[3] == [(i, f"id-{i}") for i in range(3, 200, 20)]


def test_a_canary_is_its_own_shard_and_the_only_one_with_a_wakeup(
    connection: Any, producer: Client
) -> None:
    job = producer.messages.batches.create(requests=many(30), canary=2, shard_requests=10)
    assert [shard.live for shard in job.shards] == [True, False, False, False]
    assert [shard.requests for shard in job.shards] == [2, 10, 10, 8]
    assert wakeups_sent(connection) == 1
    assert read(connection, job.id).record.fields["waiting_for_canary"] == "canary"
    members = connection.zrange(SETTINGS.keys.live_shards, 0, -1)
    assert members == [f"{job.id}/{number}".encode() for number in range(4)]


def test_a_job_without_options_waits_for_no_canary_and_has_no_cap(
    connection: Any, producer: Client
) -> None:
    job = producer.messages.batches.create(requests=many(3))
    assert "waiting_for_canary" not in read(connection, job.id).record.fields
    assert not connection.exists(SETTINGS.keys.job(job.id).money)


def test_a_cost_cap_is_stored_in_millionths_of_a_dollar(connection: Any, producer: Client) -> None:
    job = producer.messages.batches.create(requests=many(1), max_cost_usd=0.57)
    assert connection.hgetall(SETTINGS.keys.job(job.id).money) == {b"cap": b"570000"}


def test_all_keys_of_a_job_have_the_lifetime_of_its_record(
    connection: Any, producer: Client
) -> None:
    job = producer.messages.batches.create(requests=many(5), max_cost_usd=1, canary=1)
    keys = [key for key in keys_of(connection) if job.id.encode() in key]
    assert len(keys) == 4 + 4  # meta, log, shards, money; chunks of two shards
    assert all(7_100 < connection.ttl(key) <= 7_200 for key in keys)


def test_requests_may_hold_objects_of_the_sdk(connection: Any, producer: Client) -> None:
    from anthropic.types import TextBlock

    answer = {"role": "assistant", "content": [TextBlock(type="text", text="hi")]}
    asked = request("a", messages=[{"role": "user", "content": "x"}, answer])
    job = producer.messages.batches.create(requests=[asked])
    ((params,), _) = contents(connection, job.id, job.shards[0])
    assert params["messages"][1]["content"] == [{"type": "text", "text": "hi"}]


def test_values_are_stored_as_they_were_given(connection: Any, producer: Client) -> None:
    given = request("a", tools=[{"maximum": 2**64, "scale": 1.0, "min": None}], system=NOT_GIVEN)
    job = producer.messages.batches.create(requests=[given], betas=NOT_GIVEN)  # type: ignore[arg-type]
    (shard,) = read(connection, job.id).shards
    (line,) = stored(connection, job.id, shard.request_chunk_name, shard.request_chunks)
    assert b'"tools":[{"maximum":18446744073709551616,"scale":1.0,"min":null}]' in line
    assert b"system" not in line
    assert shard.betas == ()


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"metadata": {"score": float("nan")}}, "params.metadata.score"),
        ({"tools": [{"name": "half \ud83d"}]}, "params.tools.0.name"),
        ({"tools": [{"\ude00": 1}]}, "params.tools.0.\\ude00"),
        ({"metadata": {1: "x"}}, "params.metadata.1"),
    ],
)
def test_a_value_that_cannot_be_sent_is_rejected_by_line_and_field(
    connection: Any, producer: Client, params: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        producer.messages.batches.create(requests=[request("a"), request("b", **params)])
    assert (caught.value.line, caught.value.field) == (2, field)
    assert keys_of(connection) == []


def test_errors_name_the_line_of_numbered_requests(connection: Any, producer: Client) -> None:
    for wrong, problem in ((5, "line 9: must be"), (request("a"), "already used in line 3")):
        requests = NumberedRequests([(3, request("a")), (9, wrong)])
        with pytest.raises(InvalidRequest, match=problem) as caught:
            producer.messages.batches.create(requests=requests)
        assert caught.value.line == 9
    requests = NumberedRequests([(3, request("a")), (9, request("b"))])
    job = producer.messages.batches.create(requests=requests)
    (shard,) = read(connection, job.id).shards
    assert contents(connection, job.id, shard)[1] == [(0, "a"), (1, "b")]
