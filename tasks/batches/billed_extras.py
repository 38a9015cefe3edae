"""What a request is billed for beside its tokens, as counts; pure.

Like tokens, these counts are added up by model, under the API's names where it has one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

#: Begins the names of counts of tokens that were produced in fast mode; they are among the others.
FAST: Final = "fast_"
#: Begins the names of counts of requests whose usage has a value that changes the price.
REQUESTS_WITH: Final = "requests_with_"

#: Names of counts in ``server_tool_use``, and the most uses that one request can have made.
_TOOL: Final = re.compile(r"[a-z_]{1,40}_requests")
_MAX_USES: Final = 1_000_000

#: Fields of the usage that change the price → values that do not.
_STANDARD: Final[Mapping[str, tuple[Any, ...]]] = {
    "inference_geo": (None, "", "global", "not_available"),
    "service_tier": (None, "", "standard", "batch"),
    "speed": (None, "", "standard", "fast"),
}


def special_in(usages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the usages that are billed for more than tokens, in one pass: most lines have none."""
    geo, tier = _STANDARD["inference_geo"], _STANDARD["service_tier"]
    return [
        usage
        for usage in usages
        if usage.get("inference_geo") not in geo
        or usage.get("service_tier") not in tier
        or usage.get("server_tool_use")
        or usage.get("speed")
        or usage.get("iterations")
    ]


def extras_in(usages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count what these usages have beside tokens; values of other types are ignored.

    >>> extras_in([{"server_tool_use": {"web_search_requests": 2}, "inference_geo": "us"}])
    {'web_search_requests': 2, 'requests_with_inference_geo': 1}
    """
    found: Counter[str] = Counter()
    for tools in [tools for usage in usages if (tools := usage.get("server_tool_use"))]:
        _count_tools(tools, found)
    for name, standard in _STANDARD.items():
        count = sum([usage.get(name) not in standard for usage in usages])
        if count:
            found[f"{REQUESTS_WITH}{name}"] = count
    iterations = [each for usage in usages if (each := usage.get("iterations"))]
    if odd := sum(map(_has_other_models, iterations)):
        found[f"{REQUESTS_WITH}iterations"] = odd
    return dict(found)


def _count_tools(tools: Any, found: Counter[str]) -> None:
    """Count the uses of server tools; what cannot be counted is a request with odd tools."""
    if type(tools) is dict:
        counts = {name: n for name, n in tools.items() if n}
        if all(_is_count(name, n) for name, n in counts.items()):
            found.update(counts)
            return
    found[f"{REQUESTS_WITH}server_tool_use"] += 1


def _is_count(name: str, n: Any) -> bool:
    return type(n) is int and 0 < n <= _MAX_USES and bool(_TOOL.fullmatch(name))


def compactions_in(usages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the usages of compactions, whose tokens are not in those of their request."""
    lists = [each for usage in usages if type(each := usage.get("iterations")) is list]
    return [one for each in lists for one in each if _type_of(one) == "compaction"]


def fast_in(usages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the usages of requests that ran in fast mode."""
    return [usage for usage in usages if usage.get("speed") == "fast"]


def _has_other_models(iterations: Any) -> bool:
    """Whether another model took part: an advisor, or a fallback."""
    if type(iterations) is not list:
        return True
    return any(_type_of(each) not in ("message", "compaction") for each in iterations)


def _type_of(iteration: Any) -> Any:
    return iteration.get("type") if type(iteration) is dict else None
