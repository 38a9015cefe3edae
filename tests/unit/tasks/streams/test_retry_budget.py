"""RetryBudget: how often an interrupted answer is resumed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.streams.retry_budget import MAX_CALLS, Cost, Fault, RetryBudget

CHEAP = Cost(calls=1, input_tokens=10, output_tokens=10, max_tokens=1000)


def fault(
    kind: str = "connection_error", message: str = "cut", place: tuple[int, ...] | None = (1,)
) -> Fault:
    return Fault({"type": kind, "message": message}, retryable=True, place=place)


def interrupted(budget: RetryBudget, fault: Fault, kept: int = 0, cost: Cost = CHEAP) -> str:
    budget.start()
    return budget.exhausted(fault, kept=kept, cost=cost)


kinds = st.sampled_from(
    ["connection_error", "incomplete_stream", "api_error", "malformed", "overloaded_error"]
)
faults = st.builds(
    fault,
    kind=kinds,
    message=st.sampled_from(["one", "two"]),
    place=st.none() | st.tuples(st.integers(0, 2)),
)


@given(st.lists(faults, min_size=30, max_size=30), st.integers(1, 8))
def test_an_answer_that_does_not_advance_has_at_most_so_many_calls(
    happened: list[Fault], max_attempts: int
) -> None:
    budget = RetryBudget(max_attempts)
    reasons = [interrupted(budget, each) for each in happened[:max_attempts]]
    assert any(reasons)


@given(st.lists(faults, max_size=8), faults, st.lists(st.integers(0, 100), min_size=2))
def test_a_deterministic_fault_ends_the_request_at_its_second_call(
    before: list[Fault], repeated: Fault, kept: list[int]
) -> None:
    budget = RetryBudget(100)
    for each in before:
        interrupted(budget, each)
    interrupted(budget, repeated, kept=kept[0])
    reason = interrupted(budget, repeated, kept=kept[1])
    passing = repeated.place is None or repeated.error["type"] == "overloaded_error"
    assert bool(reason) is not passing


@given(st.lists(faults, max_size=20), st.integers(2, 8))
def test_different_faults_are_not_taken_for_a_deterministic_one(
    happened: list[Fault], max_attempts: int
) -> None:
    budget = RetryBudget(max_attempts)
    different = [Fault(each.error, True, (i,)) for i, each in enumerate(happened)]
    for each in different[: max_attempts - 1]:
        assert interrupted(budget, each) == ""


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 6))
def test_only_lasting_progress_refills_the_budget(kept: list[int], max_attempts: int) -> None:
    budget, best, stalled = RetryBudget(max_attempts), 0, 0
    for i, now in enumerate(kept):
        reason = interrupted(budget, fault(place=(i,)), kept=now)
        stalled = 0 if now > best else stalled + 1
        best = max(best, now)
        assert bool(reason) is (stalled >= max_attempts)
        if reason:
            return


@given(st.lists(st.tuples(st.integers(0, 9), faults), max_size=20), st.integers(0, 20))
def test_it_does_not_matter_which_worker_makes_a_call(
    happened: list[tuple[int, Fault]], taken_over: int
) -> None:
    one = other = RetryBudget(3)
    for i, (now, fault) in enumerate(happened):
        if i == taken_over:
            other = RetryBudget(3, stalled=one.stalled, kept=one.kept, last=one.last)
        reasons = {
            interrupted(each, fault, now) for each in {id(one): one, id(other): other}.values()
        }
        assert len(reasons) == 1


def test_a_refused_call_does_not_count() -> None:
    budget = RetryBudget(2)
    for _ in range(10):
        budget.start()
        budget.undo()
    assert interrupted(budget, fault(place=(1,))) == ""
    assert "2 calls without progress" in interrupted(budget, fault(place=(2,)))


def test_the_number_of_calls_is_bounded_even_if_each_advances() -> None:
    budget = RetryBudget(6)
    cost = Cost(calls=MAX_CALLS, input_tokens=0, output_tokens=0, max_tokens=10**9)
    assert interrupted(budget, fault(), kept=5, cost=cost) == f"{MAX_CALLS} calls"


@given(st.integers(1, 6), st.integers(0, 10**6), st.integers(1, 10**5), st.data())
def test_as_many_complete_answers_as_attempts_are_never_too_expensive(
    calls: int, input_tokens: int, max_tokens: int, data: st.DataObject
) -> None:
    output = data.draw(st.integers(0, calls * max_tokens))
    assert not Cost(calls, input_tokens * calls, output, max_tokens).exceeds(6)


@given(st.integers(7, 200), st.integers(10, 10**6), st.integers(1, 10**5))
def test_more_complete_answers_than_attempts_are_too_expensive(
    calls: int, input_tokens: int, max_tokens: int
) -> None:
    assert Cost(calls, input_tokens * calls, calls * max_tokens, max_tokens).exceeds(6)


def test_small_inputs_allow_more_calls_than_large_ones() -> None:
    def calls(input_tokens: int) -> int:
        return next(
            n for n in range(1, 10_000) if Cost(n, n * input_tokens, n * 10, 4096).exceeds(6)
        )

    assert calls(100_000) < 10
    assert calls(100) > 500


@pytest.mark.parametrize(("max_tokens", "exceeds"), [(9, True), (10, False)])
def test_an_output_token_costs_as_much_as_five_input_tokens(max_tokens: int, exceeds: bool) -> None:
    two_inputs = Cost(calls=2, input_tokens=100, output_tokens=0, max_tokens=max_tokens)
    assert two_inputs.exceeds(1) is exceeds
    written = Cost(calls=1, input_tokens=0, output_tokens=max_tokens + 1, max_tokens=10)
    assert written.exceeds(1) is not exceeds


def test_the_tokens_of_every_kind_of_input_are_added_up() -> None:
    usage = {
        "input_tokens": 1,
        "cache_creation_input_tokens": 10,
        "cache_read_input_tokens": 100,
        "output_tokens": 1,
    }
    assert Cost.of(usage, calls=1, max_tokens=9) == Cost(1, 111, 1, 9)


@pytest.mark.parametrize("odd", [None, "7", -3, 1.5, [], {}, True])
def test_odd_usage_counts_as_none(odd: Any) -> None:
    usage = {"input_tokens": odd, "cache_read_input_tokens": 5, "output_tokens": odd}
    assert Cost.of(usage, calls=2, max_tokens=9) == Cost(2, 5, 0, 9)


@pytest.mark.parametrize(("second", "ends"), [("a page", True), ("another page", False)])
def test_a_named_fault_is_recognized_although_its_message_differs(second: str, ends: bool) -> None:
    budget = RetryBudget(100)
    for message, name in (("a page: id 1", "a page"), ("a page: id 2", second)):
        error = {"type": "invalid_response", "message": message}
        reason = interrupted(budget, Fault(error, retryable=True, place=(0,), name=name))
    assert bool(reason) is ends
