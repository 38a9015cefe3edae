"""The account of a shard: whole only when every request has exactly one line."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.batches.shard import Counts
from penstock.batches.wire import wire_id
from tasks.batches.collect.retry_policy import RetryDecision
from tasks.batches.collect.tally import ResultTally
from tasks.batches.result_lines import Outcome

NONCE = "abcdefghij01"
FINAL, AGAIN = RetryDecision(), RetryDecision(retry=True)


def entered(
    tally: ResultTally, index: int, kind: str = "succeeded", decision: RetryDecision = FINAL
) -> None:
    found = tally.index_of(wire_id(NONCE, index))
    if found is not None:
        tally.enter(found, Outcome(kind), decision, "m", {"input_tokens": 2})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(0, 6))
def test_every_line_is_accounted_for(indexes: list[int], requests: int) -> None:
    tally = ResultTally(NONCE, requests)
    for index in indexes:
        entered(tally, index)
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
def test_what_is_not_quite_a_wire_id_of_ours_is_a_stranger(custom_id: str) -> None:
    tally = ResultTally(NONCE, 3)
    assert tally.index_of(custom_id) is None
    assert tally.unknown_lines == 1


def test_what_is_sent_again_counts_as_seen_and_as_nothing_else() -> None:
    tally = ResultTally(NONCE, 3)
    entered(tally, 0)
    entered(tally, 1, "expired", AGAIN)
    entered(tally, 2, "canceled", RetryDecision(retry=True, pause="canceled_elsewhere"))
    entered(tally, 1)
    assert bytes(tally.seen) == bytes([1, 2, 2])
    assert (tally.missing, tally.retried, tally.repeated_lines) == (0, 2, 1)
    assert tally.counts() == Counts(succeeded=1)
    assert tally.pause == ("canceled_elsewhere", "")


def test_errors_are_counted_by_type_and_the_first_words_of_each_are_kept() -> None:
    tally = ResultTally(NONCE, 4)
    for index, (type, words) in enumerate([("a", "1"), ("b", "2"), ("a", "3"), ("", "4")]):
        tally.enter(index, Outcome("errored", type, words), FINAL, "", {})
    assert tally.errors == {"a": 2, "b": 1, "unknown_error": 1}
    assert tally.samples == {"a": "1", "b": "2"}
    assert tally.counts() == Counts(errored=4)


def test_a_kind_of_result_that_is_new_is_no_success() -> None:
    tally = ResultTally(NONCE, 2)
    entered(tally, 0, "postponed")
    entered(tally, 1)
    assert tally.counts() == Counts(succeeded=1, errored=1)


def test_tokens_are_added_up_per_model() -> None:
    tally = ResultTally(NONCE, 0)
    tally.add_tokens("a", {"input_tokens": 3, "output_tokens": 5})
    tally.add_tokens("b", {"input_tokens": 1})
    tally.add_tokens("a", {"input_tokens": 4, "ephemeral_1h_input_tokens": 9})
    assert tally.tokens() == {
        "a": {"input_tokens": 7, "output_tokens": 5, "ephemeral_1h_input_tokens": 9},
        "b": {"input_tokens": 1},
    }
