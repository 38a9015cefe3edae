"""The account of a shard: whole only when every request has exactly one line."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.batches.shard import Counts
from penstock.batches.wire import wire_id
from tasks.batches.collect.retry_policy import Verdict
from tasks.batches.collect.tally import Account
from tasks.batches.result_lines import Outcome

NONCE = "abcdefghij01"
FINAL, AGAIN = Verdict(), Verdict(again=True)


def entered(
    account: Account, index: int, kind: str = "succeeded", verdict: Verdict = FINAL
) -> None:
    found = account.index_of(wire_id(NONCE, index))
    if found is not None:
        account.enter(found, Outcome(kind), verdict, "m", {"input_tokens": 2})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(0, 6))
def test_every_line_is_accounted_for(indexes: list[int], requests: int) -> None:
    account = Account(NONCE, requests)
    for index in indexes:
        entered(account, index)
    ours = [index for index in indexes if index < requests]
    assert account.strangers == len(indexes) - len(ours)
    assert account.doubles == len(ours) - len(set(ours))
    assert account.missing == requests - len(set(ours))
    assert account.counts().total == len(set(ours))
    assert account.foreign == (bool(account.strangers) and not ours)


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
    account = Account(NONCE, 3)
    assert account.index_of(custom_id) is None
    assert account.strangers == 1


def test_what_is_sent_again_counts_as_seen_and_as_nothing_else() -> None:
    account = Account(NONCE, 3)
    entered(account, 0)
    entered(account, 1, "expired", AGAIN)
    entered(account, 2, "canceled", Verdict(again=True, pause="canceled_elsewhere"))
    entered(account, 1)
    assert bytes(account.seen) == bytes([1, 2, 2])
    assert (account.missing, account.again, account.doubles) == (0, 2, 1)
    assert account.counts() == Counts(succeeded=1)
    assert account.pause == ("canceled_elsewhere", "")


def test_errors_are_counted_by_type_and_the_first_words_of_each_are_kept() -> None:
    account = Account(NONCE, 4)
    for index, (type, words) in enumerate([("a", "1"), ("b", "2"), ("a", "3"), ("", "4")]):
        account.enter(index, Outcome("errored", type, words), FINAL, "", {})
    assert account.errors == {"a": 2, "b": 1, "unknown_error": 1}
    assert account.samples == {"a": "1", "b": "2"}
    assert account.counts() == Counts(errored=4)


def test_a_kind_of_result_that_is_new_is_no_success() -> None:
    account = Account(NONCE, 2)
    entered(account, 0, "postponed")
    entered(account, 1)
    assert account.counts() == Counts(succeeded=1, errored=1)


def test_tokens_are_added_up_per_model() -> None:
    account = Account(NONCE, 0)
    account.spent("a", {"input_tokens": 3, "output_tokens": 5})
    account.spent("b", {"input_tokens": 1})
    account.spent("a", {"input_tokens": 4, "ephemeral_1h_input_tokens": 9})
    assert account.tokens() == {
        "a": {"input_tokens": 7, "output_tokens": 5, "ephemeral_1h_input_tokens": 9},
        "b": {"input_tokens": 1},
    }
