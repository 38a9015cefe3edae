"""Prices: a batch costs half of the live price, and an unknown price is None."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.batches.limits.prices import (
    BATCH_DISCOUNT,
    actual_cost,
    bound_usd,
    cost_of,
    live_price_usd,
    most_usd,
)

OPUS = "claude-opus-5-5"
MILLION = 1_000_000
HAIKU, SONNET = "claude-haiku-4-5", "claude-sonnet-4-5"


@pytest.mark.parametrize(
    ("tokens", "dollars"),
    [
        ({"input_tokens": MILLION}, 1.0),
        ({"output_tokens": MILLION}, 5.0),
        ({"cache_creation_input_tokens": MILLION}, 1.25),
        (
            {"cache_creation_input_tokens": MILLION, "ephemeral_5m_input_tokens": MILLION},
            1.25,
        ),
        (
            {"cache_creation_input_tokens": MILLION, "ephemeral_1h_input_tokens": MILLION},
            2.0,
        ),
        (
            {
                "cache_creation_input_tokens": 3 * MILLION,
                "ephemeral_5m_input_tokens": MILLION,
                "ephemeral_1h_input_tokens": 2 * MILLION,
            },
            5.25,
        ),
        ({"cache_read_input_tokens": MILLION}, 0.1),
        (
            {
                "input_tokens": 2 * MILLION,
                "output_tokens": MILLION,
                "cache_creation_input_tokens": MILLION,
                "cache_read_input_tokens": MILLION,
            },
            8.35,
        ),
        ({}, 0.0),
        ({"brand_new_tokens": MILLION}, 0.0),
    ],
)
def test_every_kind_of_token_has_its_own_price(tokens: dict[str, int], dollars: float) -> None:
    assert live_price_usd(HAIKU, tokens) == pytest.approx(dollars)


def test_the_price_of_an_hour_in_the_cache_is_the_one_that_the_library_knows() -> None:
    from genai_prices import Usage, calc_price

    tokens = {"cache_creation_input_tokens": 1000, "ephemeral_1h_input_tokens": 1000}
    usage = Usage(input_tokens=1000, cache_write_tokens=1000, cache_write_1h_tokens=1000)
    known = calc_price(usage, SONNET, provider_id="anthropic").total_price
    assert live_price_usd(SONNET, tokens) == pytest.approx(float(known))


@given(st.integers(1, 10**9))
def test_many_small_requests_are_not_one_large_one(count: int) -> None:
    """The library's price of this model doubles above 200,000 tokens of one request."""
    assert live_price_usd(SONNET, {"input_tokens": count}) == pytest.approx(count * 3 / MILLION)


def test_a_dated_id_costs_what_its_family_costs() -> None:
    tokens = {"input_tokens": MILLION, "output_tokens": MILLION}
    dated = live_price_usd("claude-haiku-4-5-20251001", tokens)
    assert dated == live_price_usd(HAIKU, tokens)
    assert dated != live_price_usd(SONNET, tokens)


@pytest.mark.parametrize("model", ["claude-from-the-future", "", "gpt-4o", "x" * 300])
def test_the_price_of_an_unknown_model_is_unknown(model: str) -> None:
    assert live_price_usd(model, {"input_tokens": 5}) is None
    assert cost_of([({model: {"input_tokens": 5}}, False)]) is None
    assert actual_cost({model: {"input_tokens": 5}}, live=False) == "all"
    assert bound_usd({model: [5, 5]}, live=False) is None
    assert most_usd(model, 5, 5) is None


def test_a_batch_costs_half_of_the_live_price() -> None:
    usage = {HAIKU: {"input_tokens": MILLION}, SONNET: {"output_tokens": 1000}}
    cost = cost_of([(usage, False)])
    assert cost is not None
    assert cost["currency"] == "USD"
    assert cost["live"] == pytest.approx(1.0 + 0.015)
    assert cost["batch"] == pytest.approx(cost["live"] * BATCH_DISCOUNT)
    assert cost["saved"] == pytest.approx(cost["live"] - cost["batch"])
    assert BATCH_DISCOUNT == 0.5


def test_live_calls_of_a_job_cost_the_live_price() -> None:
    usage = {HAIKU: {"input_tokens": MILLION}}
    cost = cost_of([(usage, True), (usage, False)])
    assert cost is not None
    assert (cost["batch"], cost["live"], cost["saved"]) == pytest.approx((1.5, 2.0, 0.5))


def test_a_sum_with_an_unknown_price_is_unknown() -> None:
    """A sum that left out a model would look like a price."""
    assert cost_of([({HAIKU: {"input_tokens": 5}}, False), ({"unknown": {}}, False)]) is None


def test_a_batch_without_any_tokens_costs_nothing() -> None:
    assert cost_of([]) == {
        "currency": "USD",
        "batch": 0.0,
        "live": 0.0,
        "saved": 0.0,
        "estimated": 0.0,
        "excludes": [],
    }


def test_web_searches_cost_the_same_in_batches() -> None:
    usage = {HAIKU: {"input_tokens": 1_000, "web_search_requests": 3, "web_fetch_requests": 9}}
    cost = cost_of([(usage, False)])
    assert cost is not None
    assert cost["live"] == pytest.approx(0.001 + 0.03)
    assert cost["batch"] == pytest.approx(0.0005 + 0.03)
    assert cost["excludes"] == []


def test_a_search_is_excluded_if_the_library_has_no_price_for_it() -> None:
    cost = cost_of([({"claude-3-haiku-20240307": {"web_search_requests": 3}}, False)])
    assert cost is not None
    assert (cost["batch"], cost["excludes"]) == (0.0, ["web_search_requests"])


def test_tokens_of_the_fast_mode_are_at_its_price() -> None:
    tokens = {"input_tokens": 3_000, "output_tokens": 50, "fast_input_tokens": 1_000}
    slow = {"input_tokens": 3_000, "output_tokens": 50}
    fast, standard = live_price_usd(OPUS, tokens), live_price_usd(OPUS, slow)
    assert fast is not None
    assert standard is not None
    assert fast == pytest.approx(standard + 1_000 * (8 - 4) / MILLION)
    unknown = cost_of([({HAIKU: {"fast_input_tokens": 1, "input_tokens": 1}}, True)])
    assert unknown is not None
    assert unknown["excludes"] == ["speed"]


def test_what_the_price_does_not_include_is_named() -> None:
    usage = {
        HAIKU: {"input_tokens": 1, "requests_with_inference_geo": 4, "tool_search_requests": 1},
        OPUS: {"requests_with_iterations": 1},
    }
    cost = cost_of([(usage, False)], 0.25)
    assert cost is not None
    assert cost["excludes"] == ["inference_geo", "iterations", "tool_search_requests"]
    assert cost["estimated"] == 0.25
    assert cost["saved"] == pytest.approx(cost["live"] - cost["batch"])
    assert cost["batch"] > 0.25


def test_the_actual_cost_of_a_shard_is_in_millionths_of_a_dollar_rounded_up() -> None:
    usage = {HAIKU: {"input_tokens": MILLION, "output_tokens": 1}}
    assert actual_cost(usage, live=True) == 1_000_005
    assert actual_cost(usage, live=False) == 500_003
    assert actual_cost({}, live=False) == 0


def test_the_bound_holds_for_all_models_of_a_shard() -> None:
    size_by_model = {HAIKU: [MILLION, 1000], SONNET: [4, 1000, 0]}
    most = bound_usd(size_by_model, live=True)
    assert most is not None
    assert most == pytest.approx(1.0 + 0.005 + 0.015, rel=1e-3)
    assert bound_usd(size_by_model, live=False) == pytest.approx(most * BATCH_DISCOUNT)
    assert bound_usd({}, live=False) == 0


def test_a_document_counts_as_the_context_window_of_the_model() -> None:
    assert most_usd(HAIKU, 5, 7, 2) == live_price_usd(
        HAIKU, {"input_tokens": 400_005, "output_tokens": 7}
    )


@given(st.integers(0, 10**8), st.integers(0, 10**6), st.integers(0, 10**6))
def test_no_text_costs_more_than_its_bound(tokens: int, max_tokens: int, used: int) -> None:
    most = most_usd(HAIKU, tokens, max_tokens)
    cost = live_price_usd(HAIKU, {"input_tokens": tokens, "output_tokens": min(used, max_tokens)})
    assert most is not None
    assert cost is not None
    assert cost <= most
