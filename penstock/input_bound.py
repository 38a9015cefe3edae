"""The most input tokens that a request can have, from its JSON; pure.

For the cost cap of a job, which must hold whatever the text is. No token is shorter than a byte.
What is not text has its own worst case: an image counts with the most that the API scales it to,
whatever its size in bytes; a PDF, or a document that is only referred to, can fill the context
window of the model, and no request can have more than that.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

#: Maximum tokens of an image, which the API scales down to that (Anthropic, Vision, Image costs:
#: 4,784 for models with high resolution).
IMAGE_TOKENS: Final = 5_000

#: Tokens that the API adds to a request with tools (Anthropic, Tool use, Pricing: up to 735).
TOOLS_TOKENS: Final = 1_000

#: How much more an input token can cost if it is written to the cache: twice as much for an hour.
#: For five minutes it is 1.25 times as much.
CACHE_WRITE: Final = 2

#: Keys and values without which a request has nothing but text. Our JSON escapes no ASCII letter.
_SOURCE, _TOOLS, _CACHE = b'"source"', b'"tools"', b'"cache_control"'

#: Where content blocks are.
_WITH_BLOCKS: Final = ("messages", "system", "content", "source")


class InputBound(NamedTuple):
    """The most that the input of a request can be."""

    tokens: int  #: of its text and images, at the price of an input token
    full: int  #: 1 if it has documents that can fill the context window, else 0


def input_bound(params: Mapping[str, Any], line: bytes) -> InputBound:
    """Return the bound of a request; ``line``: its JSON, as `json_text.dumps` writes it.

    Not included is what cannot be seen before the call: what server tools, MCP servers and
    containers add.

    >>> line = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"Hi"}]}'
    >>> input_bound({"messages": []}, line)
    InputBound(tokens=72, full=0)
    """
    tokens, full = len(line), 0
    if _SOURCE in line:
        for block in _blocks_with_sources(params):
            source = block["source"]
            data = source.get("data")
            if block.get("type") == "image":
                tokens += IMAGE_TOKENS - (len(data) if isinstance(data, str) else 0)
            elif source.get("type") not in ("text", "content"):
                full = 1
                tokens -= len(data) if isinstance(data, str) else 0
    if _TOOLS in line:
        tokens += TOOLS_TOKENS
    return InputBound(tokens * CACHE_WRITE if _CACHE in line else tokens, full)


def _blocks_with_sources(params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every content block with a source, also those in the results of tools.

    The input of a tool is text for the API, whatever it looks like.
    """
    left: list[Any] = [params]
    while left:
        found = left.pop()
        if isinstance(found, list | tuple):
            left += found
        elif isinstance(found, Mapping):
            if isinstance(found.get("source"), dict):
                yield dict(found)
            left += [found[name] for name in _WITH_BLOCKS if name in found]
