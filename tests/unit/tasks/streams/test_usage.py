"""Usage: tokens add up over attempts."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.streams.usage import BYTES_PER_TOKEN, Usage, piece_bytes

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


def text(value: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": value}


@given(st.lists(st.text(max_size=20)), st.integers(0, 50))
def test_the_output_of_an_incomplete_attempt_is_estimated_from_its_bytes(
    pieces: list[str], reported: int
) -> None:
    usage = Usage({"output_tokens": 1000})
    usage.next_attempt()
    usage.add({"output_tokens": reported})
    for piece in pieces:
        usage.receive(text(piece))
    usage.end_attempt(complete=False)
    usage.end_attempt(complete=False)
    estimate = len("".join(pieces).encode()) // BYTES_PER_TOKEN
    assert usage.total["output_tokens"] == 1000 + max(reported, estimate)
    assert usage.estimated


def test_a_complete_attempt_is_not_estimated() -> None:
    usage = Usage()
    usage.next_attempt()
    usage.receive(text(400 * "a"))
    usage.add({"output_tokens": 3})
    usage.end_attempt(complete=True)
    assert (usage.total, usage.estimated) == ({"output_tokens": 3}, False)


@given(st.integers(0, 200), st.integers(0, 1000))
def test_the_attempt_of_a_lost_worker_is_counted_once(reported: int, received: int) -> None:
    lost = Usage({"output_tokens": 50})
    lost.next_attempt()
    lost.add({"output_tokens": reported})
    fields = lost.fields()
    assert fields["open_output"] == reported
    usage = Usage(orjson.loads(fields["spent"]))
    usage.end_lost_attempt(reported, received)
    expected = 50 + max(reported, received // BYTES_PER_TOKEN)
    assert usage.total["output_tokens"] == expected
    usage.next_attempt()
    usage.end_attempt(complete=True)
    assert usage.total["output_tokens"] == expected
    assert usage.fields()["usage_estimated"] == 1


@pytest.mark.parametrize(
    ("delta", "size"),
    [
        (text("abc"), 3),
        (text("\u20ac"), 3),
        (text("\ud83d"), 1),
        ({"type": "thinking_delta", "thinking": "abcd"}, 4),
        ({"type": "input_json_delta", "partial_json": '{"a"'}, 4),
        ({"type": "signature_delta", "signature": "abcd"}, 0),
        ({"type": "text_delta", "text": None}, 0),
        ({"type": "text_delta"}, 0),
        ({"type": []}, 0),
        ({}, 0),
    ],
)
def test_only_generated_pieces_count_as_received(delta: dict[str, Any], size: int) -> None:
    assert piece_bytes(delta) == size
