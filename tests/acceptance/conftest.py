"""What the acceptance tests share: bodies of requests."""

from collections.abc import Callable
from typing import Any

import pytest

Body = Callable[..., dict[str, Any]]


@pytest.fixture
def body() -> Body:
    """A Messages body with this prompt; keyword arguments win."""

    def make(prompt: str = "Say something.", **fields: Any) -> dict[str, Any]:
        message = {"role": "user", "content": prompt}
        return {
            "model": "claude-haiku-4-5",
            "max_tokens": 4096,
            "messages": [message],
            **fields,
        }

    return make
