"""What tokens cost, by the prices in the library genai-prices; pure.

In the library, the prices of some models rise with the size of a request. Here tokens are added up
over many requests, so each kind of token has one price: that of a small request.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

from tasks.batches.billed_extras import FAST, REQUESTS_WITH

#: A batch costs half of what live calls cost (Anthropic, Message Batches, Pricing).
BATCH_DISCOUNT: Final = 0.5

#: Writing a token to the cache for an hour costs twice what an input token does (Anthropic, Prompt
#: caching, Pricing).
ONE_HOUR: Final = 2.0

#: Tokens of the context window of a model whose window the library does not know.
_LARGEST_WINDOW: Final = 1_000_000

#: Tokens of the sample request: few enough for the lowest price of every model.
_SAMPLE: Final = 1_000

#: Uses of server tools that cost nothing beside their tokens (Anthropic, Web fetch tool, Pricing).
_FREE_TOOLS: Final = frozenset({"web_fetch_requests"})
WEB_SEARCHES: Final = "web_search_requests"

Usage = Mapping[str, Mapping[str, int]]  #: model → tokens, by the API's names


def live_price_usd(model: str, tokens: Mapping[str, int]) -> float | None:
    """Return the price of these tokens in live calls, in US dollars; None if it is unknown.

    Tokens of the fast mode are at its price where the library knows it.
    """
    units = _units(model, "")
    if units is None:
        return None
    price = _price(tokens, units)
    fast = {name.removeprefix(FAST): n for name, n in tokens.items() if name.startswith(FAST)}
    faster = _units(model, "fast") if fast else None
    if faster is None:
        return price
    return price + _price(fast, faster) - _price(fast, units)


def tools_usd(model: str, tokens: Mapping[str, int]) -> float:
    """Return the price of web searches. Batches have no discount on them."""
    return tokens.get(WEB_SEARCHES, 0) * ((_units(model, "") or {}).get("search") or 0.0)


def excluded(model: str, tokens: Mapping[str, int]) -> set[str]:
    """Return what these requests may be billed for beside what the price includes.

    ``web_search_requests`` and other uses of server tools that the library has no price for;
    ``inference_geo``, ``service_tier``, ``speed`` or ``iterations`` if the usage of a request has
    a value that changes the price.
    """
    found = {name.removeprefix(REQUESTS_WITH) for name in tokens if name.startswith(REQUESTS_WITH)}
    tools = {name for name in tokens if name.endswith("_requests")} - _FREE_TOOLS
    if (_units(model, "") or {}).get("search"):
        tools.discard(WEB_SEARCHES)
    if any(name.startswith(FAST) for name in tokens) and _units(model, "fast") is None:
        found.add("speed")
    return found | tools


def cost_of(
    parts: Iterable[tuple[Usage, bool]], estimated: float = 0.0, also_excluded: Iterable[str] = ()
) -> dict[str, Any] | None:
    """Return what usage cost, what live calls would have cost, and the difference.

    Each part comes with whether it was used by live calls. ``estimated``: dollars for calls without
    an answer, which are included. ``excludes`` names what is not, with what is ``also_excluded``.
    None: the price of a model is unknown.
    """
    paid = whole = estimated
    excludes = set(also_excluded)
    for usage, live in parts:
        for model, tokens in usage.items():
            price = live_price_usd(model, tokens)
            if price is None:
                return None
            tools = tools_usd(model, tokens)
            whole += price + tools
            paid += price * _share(live) + tools
            excludes |= excluded(model, tokens)
    # No token costs less than this: further digits are rounding errors.
    paid, whole = round(paid, 10), round(whole, 10)
    return {
        "currency": "USD",
        "batch": paid,
        "live": whole,
        "saved": round(whole - paid, 10),
        "estimated": round(estimated, 10),
        "excludes": sorted(excludes),
    }


def actual_cost(usage: Usage, *, live: bool) -> int | Literal["all"]:
    """Return the actual cost of a shard, in millionths of a dollar.

    ``all``: the price of a model is unknown, so the shard counts with all that was reserved. If the
    reservation stayed open, other shards would wait for it for ever.
    """
    cost = cost_of([(usage, live)])
    return "all" if cost is None else math.ceil(round(cost["batch"] * 1_000_000, 6))


def bound_usd(size_by_model: Mapping[str, Sequence[int]], *, live: bool) -> float | None:
    """Return the most that requests of this size can cost, in US dollars.

    ``size_by_model``: as in a `Shard`. None: the price of a model is unknown.
    """
    prices = [most_usd(model, *sizes) for model, sizes in size_by_model.items()]
    known = [price for price in prices if price is not None]
    return None if len(known) < len(prices) else sum(known) * _share(live)


def most_usd(model: str, tokens: int, max_tokens: int, full: int = 0) -> float | None:
    """Return the most that live calls of this size can cost, in US dollars; None if unknown.

    ``tokens``: the most input tokens that are known; ``full``: calls that can have as many as the
    model's context window besides.
    """
    tokens += full * (_window(model) if full else 0)
    return live_price_usd(model, {"input_tokens": tokens, "output_tokens": max_tokens})


def _share(live: bool) -> float:
    return 1.0 if live else BATCH_DISCOUNT


def _price(tokens: Mapping[str, int], units: Mapping[str, float]) -> float:
    # Unless the API says otherwise, cached tokens are kept for five minutes.
    hours = tokens.get("ephemeral_1h_input_tokens", 0)
    minutes = tokens.get("cache_creation_input_tokens", 0) - hours
    return (
        tokens.get("input_tokens", 0) * units["input"]
        + tokens.get("output_tokens", 0) * units["output"]
        + tokens.get("cache_read_input_tokens", 0) * units["read"]
        + max(minutes, 0) * units["write"]
        + hours * units["input"] * ONE_HOUR
    )


@lru_cache(maxsize=256)
def _window(model: str) -> int:
    """Return the tokens of the model's context window."""
    from genai_prices import Usage, calc_price

    try:
        found = calc_price(Usage(input_tokens=1), model, provider_id="anthropic").model
    except LookupError:
        return _LARGEST_WINDOW
    return found.context_window or _LARGEST_WINDOW


@lru_cache(maxsize=256)
def _units(model: str, speed: str) -> dict[str, float] | None:
    """Return the price of one token of each kind, and of a web search.

    None: the model is unknown, or has no price for this speed.
    """
    from genai_prices import Usage, calc_price

    samples = {
        "input": Usage(input_tokens=_SAMPLE),
        "output": Usage(output_tokens=_SAMPLE),
        # The library includes cached tokens in input_tokens, the API does not.
        "write": Usage(input_tokens=_SAMPLE, cache_write_tokens=_SAMPLE),
        "read": Usage(input_tokens=_SAMPLE, cache_read_tokens=_SAMPLE),
        "search": Usage(input_tokens=0, web_searches=_SAMPLE),
    }
    context = {"speed": speed} if speed else None
    try:
        units = {
            kind: float(
                calc_price(
                    sample, model, provider_id="anthropic", price_context=context
                ).total_price
            )
            / _SAMPLE
            for kind, sample in samples.items()
        }
    except LookupError:
        return None
    # For a speed that it does not know, the library returns the standard price.
    return None if speed and units["output"] == (_units(model, "") or units)["output"] else units
