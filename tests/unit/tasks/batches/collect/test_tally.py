"""The tally of a shard's results, which is complete when every request has a line."""

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.batches.shard import Counts
from penstock.batches.unreadable import UNREADABLE
from penstock.batches.wire import wire_id
from tasks.batches.collect.retry_policy import RetryDecision
from tasks.batches.collect.tally import ResultTally
from tasks.batches.result_lines import Outcome

NONCE = "abcdefghij01"
FINAL, RETRY = RetryDecision(), RetryDecision(retry=True)


def enter_line(
    tally: ResultTally, index: int, kind: str = "succeeded", decision: RetryDecision = FINAL
) -> None:
    found = tally.index_of(wire_id(NONCE, index))
    if found is not None:
        tally.enter(found, Outcome(kind), decision, "m", {"input_tokens": 2})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(0, 6))
def test_every_result_line_is_counted_once(indexes: list[int], requests: int) -> None:
    tally = ResultTally(NONCE, requests)
    for index in indexes:
        enter_line(tally, index)
    ours = [index for index in indexes if index < requests]
    assert tally.unknown_lines == len(indexes) - len(ours)
    assert tally.repeated_lines == len(ours) - len(set(ours))
    assert tally.missing == requests - len(set(ours))
    assert tally.counts().total == len(set(ours))
    assert tally.of_another_call == (bool(tally.unknown_lines) and not ours)


@pytest.mark.parametrize(
    "custom_id",
    [
        "",
        "foreign",
        "abcdefghij01-00000",
        "abcdefghij01-0000000",
        "abcdefghij01_000000",
        "abcdefghij02-000000",
        "abcdefghij01-000003",
        "abcdefghij01- 00001",
        "abcdefghij01-+00001",
        "abcdefghij01-0_0001",
        "abcdefghij01-00000\u0661",
        "ABCDEFGHIJ01-000000",
    ],
)
def test_an_id_that_is_not_a_wire_id_of_the_call_is_unknown(custom_id: str) -> None:
    tally = ResultTally(NONCE, 3)
    assert tally.index_of(custom_id) is None
    assert tally.unknown_lines == 1


def test_a_retried_request_counts_as_seen_and_not_as_a_result() -> None:
    tally = ResultTally(NONCE, 3)
    enter_line(tally, 0)
    enter_line(tally, 1, "expired", RETRY)
    enter_line(tally, 2, "canceled", RetryDecision(retry=True, pause="canceled_elsewhere"))
    enter_line(tally, 1)
    assert bytes(tally.seen) == bytes([1, 2, 2])
    assert (tally.missing, tally.retried, tally.repeated_lines) == (0, 2, 1)
    assert tally.counts() == Counts(succeeded=1)
    assert tally.pause == ("canceled_elsewhere", "")


def test_errors_are_counted_by_type_with_the_first_message_of_each() -> None:
    tally = ResultTally(NONCE, 4)
    for index, (type, message) in enumerate([("a", "1"), ("b", "2"), ("a", "3"), ("", "4")]):
        tally.enter(index, Outcome("errored", type, message), FINAL, "", {})
    assert tally.errors == {"a": 2, "b": 1, "unknown_error": 1}
    assert tally.samples == {"a": "1", "b": "2"}
    assert tally.counts() == Counts(errored=4)


def test_an_unknown_result_type_counts_as_errored() -> None:
    tally = ResultTally(NONCE, 2)
    enter_line(tally, 0, "postponed")
    enter_line(tally, 1)
    assert tally.counts() == Counts(succeeded=1, errored=1)


def test_final_results_are_counted_by_how_they_ended() -> None:
    """An expired or canceled request is final where it cannot be retried."""
    tally = ResultTally(NONCE, 5)
    for index, kind in enumerate(["succeeded", "errored", "canceled", "expired", "expired"]):
        enter_line(tally, index, kind)
    assert tally.counts() == Counts(succeeded=1, errored=1, canceled=1, expired=2)
    assert tally.errors == {"unknown_error": 1}
    assert (tally.retried, tally.missing, tally.pause) == (0, 0, None)


def test_the_first_reason_to_pause_is_kept_with_its_message() -> None:
    tally = ResultTally(NONCE, 3)
    for index, (pause, message) in enumerate([("", "busy"), ("a", "first"), ("b", "second")]):
        decision = RetryDecision(retry=True, pause=pause)
        tally.enter(index, Outcome("errored", "x", message), decision, "", {})
    assert tally.pause == ("a", "first")


def test_only_succeeded_requests_count_tokens() -> None:
    tally = ResultTally(NONCE, 4)
    for index, kind in enumerate(["succeeded", "errored", "expired"]):
        enter_line(tally, index, kind)
    enter_line(tally, 3, "succeeded", RETRY)
    assert tally.tokens() == {"m": {"input_tokens": 2}}


def test_lines_that_are_left_out_are_described_by_their_kind() -> None:
    tally = ResultTally(NONCE, 3)
    enter_line(tally, 0)
    enter_line(tally, 0)
    for foreign in ("foreign", "another"):
        assert tally.index_of(foreign) is None
    tally.invalid_lines += 1
    assert (tally.extra_lines, tally.first_unknown_id) == (4, "foreign")
    tally.enter(1, Outcome("errored", "unreadable_result"), FINAL, "", {})
    assert str(tally) == (
        "1 of 3 requests have no result, 3 lines belong to no request, 1 lines are repeated, "
        "1 lines cannot be read"
    )


def test_a_request_without_a_line_is_errored_once_its_line_is_given_up() -> None:
    tally = ResultTally(NONCE, 4)
    enter_line(tally, 1)
    lines = [orjson.loads(line) for line in tally.missing_lines("msgbatch_1")]
    assert [line["custom_id"] for line in lines] == [wire_id(NONCE, i) for i in (0, 2, 3)]
    assert {line["result"]["error"]["error"]["type"] for line in lines} == {"result_missing"}
    assert (tally.missing, tally.failed, tally.unknown_costs) == (0, 3, 3)
    assert (tally.counts(), tally.errors) == (Counts(succeeded=1, errored=3), {"result_missing": 3})
    assert list(tally.missing_lines("msgbatch_1")) == []


def test_the_number_of_error_types_in_a_record_is_bounded() -> None:
    tally = ResultTally(NONCE, 1_000)
    for index in range(1_000):
        tally.enter(index, Outcome("errored", f"type-{index}"), FINAL, "", {})
    assert len(tally.errors) == 51
    assert tally.errors["other_errors"] == 950


@pytest.mark.parametrize(("unknown", "ours", "expected"), [(0, 0, 0), (2, 0, 1), (2, 1, 0)])
def test_results_are_of_another_call_only_if_none_is_of_this_one(
    unknown: int, ours: int, expected: int
) -> None:
    tally = ResultTally(NONCE, 2)
    for _ in range(unknown):
        tally.index_of("foreign")
    for index in range(ours):
        enter_line(tally, index)
    assert tally.of_another_call is bool(expected)


def test_tokens_are_added_up_by_model() -> None:
    tally = ResultTally(NONCE, 0)
    tally.add_tokens("a", {"input_tokens": 3, "output_tokens": 5})
    tally.add_tokens("b", {"input_tokens": 1})
    tally.add_tokens("a", {"input_tokens": 4, "ephemeral_1h_input_tokens": 9})
    assert tally.tokens() == {
        "a": {"input_tokens": 7, "output_tokens": 5, "ephemeral_1h_input_tokens": 9},
        "b": {"input_tokens": 1},
    }


def test_requests_of_unknown_cost_are_counted_whatever_the_other_errors_are() -> None:
    """Otherwise a cost cap would take the requests for free."""
    tally = ResultTally(NONCE, 103)
    for index in range(100):
        tally.enter(index, Outcome("errored", f"type_{index}", "x" * 2_000), FINAL, "", {})
    for index in (100, 101):
        tally.enter(index, Outcome("errored", UNREADABLE, "no JSON"), FINAL, "", {})
    assert len(list(tally.missing_lines("msgbatch_1"))) == 1
    assert tally.unknown_costs == 3
    assert len(tally.samples) <= 51  # messages are kept of the types that are counted apart
