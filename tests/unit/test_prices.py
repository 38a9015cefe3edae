"""Prices: half of the live price for a batch, and None where nobody knows."""

import pytest

from tasks.prices import BATCH_DISCOUNT, batch_cost, live_price_usd

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("tokens", "dollars"),
    [
        ({"input_tokens": MILLION}, 1.0),
        ({"output_tokens": MILLION}, 5.0),
        ({"cache_creation_input_tokens": MILLION}, 1.25),
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
    assert live_price_usd("claude-haiku-4-5", tokens) == pytest.approx(dollars)


def test_a_dated_id_costs_what_its_family_costs() -> None:
    tokens = {"input_tokens": MILLION, "output_tokens": MILLION}
    dated = live_price_usd("claude-haiku-4-5-20251001", tokens)
    assert dated == live_price_usd("claude-haiku-4-5", tokens)
    assert dated != live_price_usd("claude-sonnet-4-5", tokens)


@pytest.mark.parametrize("model", ["claude-from-the-future", "", "gpt-4o", "x" * 300])
def test_the_price_of_an_unknown_model_is_unknown(model: str) -> None:
    assert live_price_usd(model, {"input_tokens": 5}) is None
    assert batch_cost({model: {"input_tokens": 5}}) is None


def test_a_batch_costs_half_of_the_live_price() -> None:
    cost = batch_cost(
        {
            "claude-haiku-4-5": {"input_tokens": MILLION},
            "claude-sonnet-4-5": {"output_tokens": 1000},
        }
    )
    assert cost is not None
    assert cost["currency"] == "USD"
    assert cost["live"] == pytest.approx(1.0 + 0.015)
    assert cost["batch"] == pytest.approx(cost["live"] * BATCH_DISCOUNT)
    assert BATCH_DISCOUNT == 0.5


def test_a_part_that_is_unknown_makes_the_whole_unknown() -> None:
    """A sum that leaves a model out would look like a price."""
    assert batch_cost({"claude-haiku-4-5": {"input_tokens": 5}, "unknown": {}}) is None


def test_a_batch_without_any_tokens_costs_nothing() -> None:
    assert batch_cost({}) == {"currency": "USD", "batch": 0.0, "live": 0.0}
