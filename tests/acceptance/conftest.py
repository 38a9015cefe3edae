"""What the acceptance tests share: bodies of requests."""

from collections.abc import Callable
from pathlib import Path
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


@pytest.fixture(scope="session")
def former_spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with chunks that the workers may use; theirs are in Redis."""
    return tmp_path_factory.mktemp("spool")


@pytest.fixture(scope="session")
def penstock_environment(
    penstock_environment: dict[str, str], former_spool: Path
) -> dict[str, str]:
    """The environment of Penstock's own fixture, and the setting for that folder."""
    return {**penstock_environment, "PENSTOCK_FORMER_SPOOL_URLS": f'["file://{former_spool}"]'}
