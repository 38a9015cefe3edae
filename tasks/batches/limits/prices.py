"""What tokens cost, by the prices that the library genai-prices keeps; pure.

The library's prices of some models rise with the size of one request, and tokens are added up over
many requests here. So each kind of token has one price, that of a small request.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

#: Batches cost half of what live calls cost (Anthropic, Message Batches, Pricing).
BATCH_DISCOUNT: Final = 0.5

#: Writing a token to the cache for an hour costs twice what reading it as input does (Anthropic,
#: Prompt caching, Pricing).
ONE_HOUR: Final = 2.0

#: Bytes of a request that hold at least one token, for the bound.
_BYTES_A_TOKEN: Final = 2

#: Small enough for the lowest price of every model.
_SAMPLE: Final = 1_000

Usage = Mapping[str, Mapping[str, int]]  #: model → tokens, by the API's names


def live_price_usd(model: str, tokens: Mapping[str, int]) -> float | None:
    """Price of these tokens as live calls, in US dollars. None: the model's price is unknown."""
    units = _units(model)
    if units is None:
        return None
    # Without a word on how long they are kept, cached tokens are kept for five minutes.
    hours = tokens.get("ephemeral_1h_input_tokens", 0)
    minutes = tokens.get("cache_creation_input_tokens", 0) - hours
    return (
        tokens.get("input_tokens", 0) * units["input"]
        + tokens.get("output_tokens", 0) * units["output"]
        + tokens.get("cache_read_input_tokens", 0) * units["read"]
        + max(minutes, 0) * units["write"]
        + hours * units["input"] * ONE_HOUR
    )


def cost_of(parts: Iterable[tuple[Usage, bool]]) -> dict[str, Any] | None:
    """What some usage cost and what it would have cost live; each part comes with whether it was
    live calls. None: the price of a model is unknown."""
    paid = whole = 0.0
    for usage, live in parts:
        for model, tokens in usage.items():
            price = live_price_usd(model, tokens)
            if price is None:
                return None
            whole += price
            paid += price * _share(live)
    # One token costs no less than this; beyond it there is only what floats add.
    paid, whole = round(paid, 10), round(whole, 10)
    return {"currency": "USD", "batch": paid, "live": whole, "saved": round(whole - paid, 10)}


def settlement(usage: Usage, *, live: bool) -> int | Literal["all"]:
    """What a shard came to, in millionths of a dollar. ``all``: the price of a model is unknown, so
    that it counts for all that was reserved; left open, it would hold up the rest for ever."""
    cost = cost_of([(usage, live)])
    return "all" if cost is None else math.ceil(round(cost["batch"] * 1_000_000, 6))


def bound_usd(size_by_model: Mapping[str, Sequence[int]], *, live: bool) -> float | None:
    """The most that requests of this weight (model → bytes, sum of ``max_tokens``) can cost, in US
    dollars. None: the price of a model is unknown.

    What a request refers to without containing it (a file, an address) is not in its bytes.
    """
    prices = [most_usd(model, *sizes) for model, sizes in size_by_model.items()]
    known = [price for price in prices if price is not None]
    return None if len(known) < len(prices) else sum(known) * _share(live)


def most_usd(model: str, bytes: int, max_tokens: int) -> float | None:
    """The most that live calls with so many bytes and ``max_tokens`` can cost, in US dollars."""
    return live_price_usd(
        model, {"input_tokens": bytes // _BYTES_A_TOKEN + 1, "output_tokens": max_tokens}
    )


def _share(live: bool) -> float:
    return 1.0 if live else BATCH_DISCOUNT


@lru_cache(maxsize=256)
def _units(model: str) -> dict[str, float] | None:
    """Price of one token of each kind."""
    from genai_prices import Usage, calc_price

    samples = {
        "input": Usage(input_tokens=_SAMPLE),
        "output": Usage(output_tokens=_SAMPLE),
        # The library counts cached tokens inside of input_tokens, the API beside them.
        "write": Usage(input_tokens=_SAMPLE, cache_write_tokens=_SAMPLE),
        "read": Usage(input_tokens=_SAMPLE, cache_read_tokens=_SAMPLE),
    }
    try:
        return {
            kind: float(calc_price(sample, model, provider_id="anthropic").total_price) / _SAMPLE
            for kind, sample in samples.items()
        }
    except LookupError:
        return None
