"""What is billed beside tokens is counted, whatever the types in a usage are."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.batches.limits.prices import cost_of
from tasks.batches.result_lines import tokens_in

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
FIELDS = (
    "server_tool_use",
    "inference_geo",
    "service_tier",
    "speed",
    "iterations",
    "cache_creation",
    "output_tokens",
)


@pytest.mark.parametrize(
    ("usage", "extras"),
    [
        (
            {"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0}},
            {"web_search_requests": 2},
        ),
        ({"server_tool_use": {"tool_search_requests": 1}}, {"tool_search_requests": 1}),
        ({"server_tool_use": {"input_tokens": 5}}, {"requests_with_server_tool_use": 1}),
        ({"server_tool_use": {"web_search_requests": "2"}}, {"requests_with_server_tool_use": 1}),
        ({"server_tool_use": {"web_search_requests": 1}}, {"web_search_requests": 1}),
        ({"server_tool_use": {"web_search_requests": 10**6}}, {"web_search_requests": 10**6}),
        (
            {"server_tool_use": {"web_search_requests": 10**6 + 1}},
            {"requests_with_server_tool_use": 1},
        ),
        ({"server_tool_use": {"web_search_requests": True}}, {"requests_with_server_tool_use": 1}),
        ({"server_tool_use": {"web_search_requests": -1}}, {"requests_with_server_tool_use": 1}),
        ({"server_tool_use": [1]}, {"requests_with_server_tool_use": 1}),
        ({"inference_geo": "us"}, {"requests_with_inference_geo": 1}),
        ({"inference_geo": "global", "service_tier": "batch", "speed": "standard"}, {}),
        ({"inference_geo": None, "service_tier": None, "server_tool_use": None}, {}),
        ({"service_tier": "priority"}, {"requests_with_service_tier": 1}),
        ({"speed": ["odd"]}, {"requests_with_speed": 1}),
        ({"speed": "fast", "output_tokens": 7}, {"fast_output_tokens": 7}),
        ({"iterations": [{"type": "message", "output_tokens": 3}]}, {}),
        ({"iterations": [{"type": "fallback_message"}]}, {"requests_with_iterations": 1}),
        ({"iterations": [{"type": "advisor_message"}, None]}, {"requests_with_iterations": 1}),
        ({"iterations": "odd"}, {"requests_with_iterations": 1}),
    ],
)
def test_what_changes_the_price_of_a_request_is_counted(
    usage: dict[str, Any], extras: dict[str, int]
) -> None:
    tokens = tokens_in([usage, {"input_tokens": 1}])
    assert {name: n for name, n in tokens.items() if name not in tokens_in([])} == extras


def test_what_changes_the_price_is_counted_once_for_each_request() -> None:
    odd = {
        "server_tool_use": {"web_search_requests": "2"},
        "inference_geo": "us",
        "iterations": [{"type": "fallback_message"}, {"type": "fallback_message"}],
    }
    searches = {"server_tool_use": {"web_search_requests": 2}}
    tokens = tokens_in([odd, searches, odd, searches])
    assert tokens["requests_with_server_tool_use"] == 2
    assert tokens["requests_with_inference_geo"] == 2
    assert tokens["requests_with_iterations"] == 2
    assert tokens["web_search_requests"] == 4


def test_the_tokens_of_a_compaction_are_added() -> None:
    compaction = {"type": "compaction", "input_tokens": 900, "output_tokens": 90}
    message = {"type": "message", "input_tokens": 10, "output_tokens": 1}
    usage = {"input_tokens": 10, "output_tokens": 1, "iterations": [compaction, message]}
    assert tokens_in([usage])["input_tokens"] == 910
    assert tokens_in([usage])["output_tokens"] == 91


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON), max_size=3))
def test_no_usage_breaks_the_count_the_record_or_the_price(usages: list[dict[str, Any]]) -> None:
    tokens = tokens_in(usages)
    assert all(type(count) is int for count in tokens.values())
    assert cost_of([({"claude-haiku-4-5": tokens}, False)]) is not None
    assert orjson.dumps(list(tokens))
