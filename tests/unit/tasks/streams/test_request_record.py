"""RequestRecord: what a worker reads from a record, whatever it contains."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.streams.continuation import OnInterrupt
from tasks.streams.request_record import FIELDS, RecordFault, RequestRecord

BODY = b'{"model":"m","max_tokens":9,"messages":[]}'


def parse(fields: dict[str, str] | None = None, body: bytes | None = BODY) -> RequestRecord:
    """Parse a record with these fields besides those that every record has."""
    values = {**dict.fromkeys(FIELDS, ""), "started_ms": "5", "renewed_ms": "6", **(fields or {})}
    return RequestRecord.parse(values, body)


def fault(fields: dict[str, str] | None = None, body: bytes | None = BODY) -> str:
    with pytest.raises(RecordFault) as raised:
        parse(fields, body)
    assert raised.value.error["type"] == "invalid_record"
    return str(raised.value.error["message"])


def test_a_new_record_has_only_what_the_producer_wrote() -> None:
    record = parse()
    assert record.body == {"model": "m", "max_tokens": 9, "messages": []}
    assert record.on_interrupt is OnInterrupt.CONTINUE
    assert (record.deadline_ms, record.open_output, record.first_delta_ms) == (None, None, None)
    assert (record.started_ms, record.attempts, record.stalled, record.kept) == (5, 0, 0, 0)
    assert (record.headers, record.usage.total) == ({}, {})
    assert [record.trimmed, record.simulated, record.usage.estimated] == [False] * 3


def test_a_record_of_an_earlier_run_has_everything_that_it_left() -> None:
    record = parse(
        {
            "on_interrupt": "restart",
            "deadline_ms": "7",
            "attempts": "4",
            "retry_budget": '{"stalled":2,"kept":30,"new":true}',
            "spent": '{"output_tokens":8}',
            "open_output": "0",
            "usage_estimated": "1",
            "first_delta_ms": "0",
            "headers": '{"anthropic-beta":"x"}',
            "base": "3",
            "simulated": "1",
        }
    )
    assert record.on_interrupt is OnInterrupt.RESTART
    assert (record.deadline_ms, record.attempts) == (7, 4)
    assert (record.stalled, record.kept) == (2, 30)
    budget = record.budget(6)
    assert (budget.stalled, budget.kept) == (2, 30)
    assert record.usage.total == {"output_tokens": 8}
    assert (record.open_output, record.first_delta_ms) == (0, 0)  # not None
    assert record.headers == {"anthropic-beta": "x"}
    assert record.trimmed
    assert record.simulated
    assert record.usage.estimated


def test_no_attempt_of_an_earlier_version_has_advanced() -> None:
    record = parse({"attempts": "3"})
    assert (record.stalled, record.kept) == (3, 0)
    record = parse({"attempts": "3", "retry_budget": '{"kept":9}'})
    assert (record.stalled, record.kept) == (3, 9)


@pytest.mark.parametrize(("reason", "read"), [("timeout_error", "timeout_error"), (7, "")])
def test_the_reason_of_the_last_interruption_is_a_text(reason: Any, read: str) -> None:
    assert parse({"retry_budget": json.dumps({"reason": reason})}).interruption == read
    assert parse({}).interruption == ""


@pytest.mark.parametrize("number", ["0", "1", "007", 18 * "9"])
def test_a_number_has_at_most_18_digits(number: str) -> None:
    for field in ("deadline_ms", "attempts", "open_output", "first_delta_ms"):
        assert getattr(parse({field: number}), field) == int(number)
        words = f"the record's field '{field}' is not a number: '{number}0"
        assert words in fault({field: number + 19 * "0"})


@pytest.mark.parametrize("name", ["stalled", "kept"])
@pytest.mark.parametrize("value", [-1, 1.0, True, None, "1"])
def test_a_part_of_the_retry_budget_is_a_count(name: str, value: Any) -> None:
    words = f"the record's field 'retry_budget' has no valid '{name}'"
    assert words in fault({"retry_budget": json.dumps({name: value})})
    assert getattr(parse({"retry_budget": json.dumps({name: 0})}), name) == 0


def test_a_record_that_was_never_claimed_is_not_run() -> None:
    assert "the record's field 'started_ms' is missing" in fault({"started_ms": ""})


def test_a_body_that_has_expired_is_no_fault_of_the_record() -> None:
    assert parse(body=None).body is None


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages"])
@given(value=st.none() | st.booleans() | st.floats(allow_nan=False) | st.just({}))
def test_a_body_has_what_a_call_needs(name: str, value: Any) -> None:
    body: dict[str, Any] = {**json.loads(BODY), name: value}
    assert f"the request's body has no valid '{name}'" in fault(body=json.dumps(body).encode())
    del body[name]
    assert f"the request's body has no valid '{name}'" in fault(body=json.dumps(body).encode())


@given(st.sampled_from(FIELDS), st.text(max_size=50))
def test_any_text_in_a_field_is_read_or_named(field: str, text: str) -> None:
    problem = ""
    try:
        parse({field: text})
    except RecordFault as error:
        problem = error.error["message"]
    assert not problem or f"the record's field {field!r}" in problem
    assert not problem or problem.endswith("enqueue it again")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "k"},
        {"Authorization": "Bearer t"},
        {"Host": "other"},
        {"anthropic-beta": "a\r\nHost: other"},
        {"anthropic-beta": 1},
        {"anthropic-beta ": "a"},
        {"Content-Length": "0"},
        {"": ""},
    ],
)
def test_a_record_cannot_make_a_worker_send_other_headers_than_a_producer_may(
    headers: dict[str, object],
) -> None:
    assert "'headers' cannot be sent" in fault({"headers": json.dumps(headers)})


def test_a_record_with_a_model_that_is_no_name_is_refused() -> None:
    """It becomes a part of keys of the rate limiter, and is shown."""
    body = {"model": "m" * 257, "max_tokens": 1, "messages": []}
    assert "'model'" in fault(body=json.dumps(body).encode())
