"""Differences between models, in one table. An unknown model counts as one of the newest."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Capability:
    """The capabilities of a family of models, as Anthropic documents them."""

    max_output_tokens: int  #: maximum of ``max_tokens`` for one Messages request
    prefill: bool  #: whether the messages may end with a partial assistant message


_NEWEST: Final = Capability(max_output_tokens=128_000, prefill=False)

#: Prefix of a model id → capability. The longest matching prefix counts.
CAPABILITIES: Final = {
    "claude-haiku-4-5": Capability(max_output_tokens=64_000, prefill=True),
    "claude-sonnet-4-5": Capability(max_output_tokens=64_000, prefill=True),
    "claude-opus-4-5": Capability(max_output_tokens=64_000, prefill=True),
    "claude-sonnet-4-6": Capability(max_output_tokens=64_000, prefill=False),
}

#: Maximum of ``max_tokens`` in a batch, with the beta ``output-300k-2026-03-24``.
MAX_OUTPUT_TOKENS_IN_A_BATCH: Final = 300_000


def takes_prefill(model: str, overrides: Mapping[str, bool]) -> bool:
    """Whether ``model`` continues a partial assistant message.

    ``overrides`` maps the prefix of a model id to what is true of its models.
    """
    matching = [family for family in overrides if model.startswith(family)]
    return overrides[max(matching, key=len)] if matching else capability(model).prefill


@lru_cache(maxsize=256)  # asked for every request of a batch job
def capability(model: str) -> Capability:
    """The capabilities of ``model``."""
    matching = [family for family in CAPABILITIES if model.startswith(family)]
    return CAPABILITIES[max(matching, key=len)] if matching else _NEWEST
