"""Usage: tokens add up over attempts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.streams.usage import Usage

NAMES = ("input_tokens", "output_tokens", "cache_read_input_tokens")
numbers = st.one_of(st.none(), st.integers(0, 10**6))
reports = st.dictionaries(st.sampled_from(NAMES), numbers)
attempts = st.lists(st.lists(reports, max_size=4), max_size=5)


def of_attempt(reported: list[dict[str, Any]], name: str) -> int | None:
    numbers_seen = [each[name] for each in reported if each.get(name) is not None]
    return numbers_seen[-1] if numbers_seen else None


@given(attempts)
def test_the_last_number_of_each_attempt_counts_and_attempts_add_up(
    happened: list[list[dict[str, Any]]],
) -> None:
    usage = Usage()
    for reported in happened:
        usage.next_attempt()
        for each in reported:
            usage.add(each)
    for name in NAMES:
        numbers_seen = [of_attempt(each, name) for each in happened]
        expected = sum(number for number in numbers_seen if number is not None)
        assert usage.total.get(name, 0) == expected


@given(attempts)
def test_usage_does_not_depend_on_which_worker_made_which_attempt(
    happened: list[list[dict[str, Any]]],
) -> None:
    one, other = Usage(), Usage()
    for reported in happened:
        one.next_attempt()
        other = Usage(other.total)  # as another worker reads it from the record
        for each in reported:
            one.add(each)
            other.add(each)
    assert one.total == other.total


def test_a_null_in_usage_means_unchanged() -> None:
    usage = Usage()
    usage.add({"input_tokens": 10, "output_tokens": 1})
    usage.add({"input_tokens": None, "output_tokens": 25})
    assert usage.total == {"input_tokens": 10, "output_tokens": 25}


def test_nested_usage_numbers_add_up_and_strings_are_the_latest() -> None:
    usage = Usage()
    usage.add({"server_tool_use": {"web_search_requests": 2}, "service_tier": "standard"})
    usage.next_attempt()
    usage.add({"server_tool_use": {"web_search_requests": 1}, "service_tier": "priority"})
    assert usage.total == {
        "server_tool_use": {"web_search_requests": 3},
        "service_tier": "priority",
    }


@pytest.mark.parametrize("nothing", [None, {}, {"input_tokens": None}])
def test_an_event_without_usage_changes_nothing(nothing: dict[str, Any] | None) -> None:
    usage = Usage({"input_tokens": 3})
    usage.add(nothing)
    assert usage.total == {"input_tokens": 3}
