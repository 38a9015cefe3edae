"""Contract tests have a Redis of their own: no worker of another test takes what they write."""

from collections.abc import Iterator

import pytest

from penstock.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def penstock_redis() -> Iterator[EmbeddedRedis]:
    """A private Redis server that no worker is connected to."""
    with EmbeddedRedis() as server:
        yield server
