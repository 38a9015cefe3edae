"""Limits of the Anthropic API that hold for every deployment."""

from typing import Final

#: Limits of one batch at the API: requests, and bytes of the create call's body.
MAX_BATCH_REQUESTS: Final = 100_000
MAX_BATCH_BYTES: Final = 256_000_000
