"""What the tests of the scripts share."""

from collections.abc import Iterator

import pytest

from penstock.keys import RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from tests.contract.penstock.store.calls import Listener


@pytest.fixture
def listener(penstock_redis: EmbeddedRedis, keys: RequestKeys) -> Iterator[Listener]:
    """A subscriber to the channels of the request that the test's ``keys`` name."""
    listener = Listener(penstock_redis, keys)
    yield listener
    listener.close()
