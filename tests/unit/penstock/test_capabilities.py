"""The table of models: dated ids belong to their family, unknown ones to the newest."""

import pytest

from penstock.capabilities import CAPABILITIES, MAX_OUTPUT_TOKENS_IN_A_BATCH, capability


@pytest.mark.parametrize(
    ("model", "most", "prefill"),
    [
        ("claude-haiku-4-5", 64_000, True),
        ("claude-haiku-4-5-20251001", 64_000, True),
        ("claude-sonnet-4-5-20250929", 64_000, True),
        ("claude-sonnet-4-6", 64_000, False),
        ("claude-opus-4-6", 128_000, False),
        ("claude-something-9", 128_000, False),
        ("", 128_000, False),
        ("my-claude-haiku-4-5", 128_000, False),
    ],
)
def test_a_model_has_the_capabilities_of_its_family(model: str, most: int, prefill: bool) -> None:
    assert capability(model).max_output_tokens == most
    assert capability(model).prefill is prefill


def test_the_longest_matching_family_counts() -> None:
    for family, its in CAPABILITIES.items():
        longer = [other for other in CAPABILITIES if other.startswith(family)]
        assert capability(max(longer, key=len)) == CAPABILITIES[max(longer, key=len)]
        assert capability(family) == its


def test_a_batch_allows_at_least_the_tokens_of_a_live_call() -> None:
    newest = capability("unknown").max_output_tokens
    assert max(c.max_output_tokens for c in CAPABILITIES.values()) <= newest
    assert newest <= MAX_OUTPUT_TOKENS_IN_A_BATCH
