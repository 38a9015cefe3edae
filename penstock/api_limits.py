"""Limits of the Anthropic API that apply to every deployment."""

from typing import Final

#: Maximum requests of one batch, and maximum bytes in the body of its create call.
MAX_BATCH_REQUESTS: Final = 100_000
MAX_BATCH_BYTES: Final = 256_000_000
