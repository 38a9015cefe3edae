"""What tokens cost, by the prices that the library genai-prices keeps; pure."""

from collections.abc import Mapping
from typing import Any, Final

#: Batches cost half of what live calls cost (Anthropic, Message Batches, Pricing).
BATCH_DISCOUNT: Final = 0.5


def live_price_usd(model: str, tokens: Mapping[str, int]) -> float | None:
    """Price of these tokens as live calls, in US dollars. None: the model's price is unknown."""
    from genai_prices import Usage, calc_price

    written = tokens.get("cache_creation_input_tokens", 0)
    read = tokens.get("cache_read_input_tokens", 0)
    usage = Usage(
        # The API counts cached tokens beside input_tokens, the library inside of them.
        input_tokens=tokens.get("input_tokens", 0) + written + read,
        cache_write_tokens=written,
        cache_read_tokens=read,
        output_tokens=tokens.get("output_tokens", 0),
    )
    try:
        return float(calc_price(usage, model, provider_id="anthropic").total_price)
    except LookupError:
        return None


def batch_cost(usage: Mapping[str, Mapping[str, int]]) -> dict[str, Any] | None:
    """What a batch cost and what the same calls would have cost live. None: unknown."""
    prices = [live_price_usd(model, tokens) for model, tokens in usage.items()]
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        return None
    live = sum(known, 0.0)
    return {"currency": "USD", "batch": live * BATCH_DISCOUNT, "live": live}
