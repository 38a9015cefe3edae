"""One simulator for all tests of this folder, and the real SDK as its client."""

from collections.abc import Iterator

import anthropic
import pytest

from penstock.simulator.control import Control
from penstock.simulator.process import simulator


@pytest.fixture(scope="session")
def started() -> Iterator[Control]:
    """A simulator at full speed, whose batches end when a test says so."""
    with simulator(rate=0, batch_seconds=3600) as control:
        yield control


@pytest.fixture
def control(started: Control) -> Control:
    """The same simulator, with nothing left from the previous test."""
    started.reset()
    return started


@pytest.fixture(scope="session")
def sdk(started: Control) -> Iterator[anthropic.Anthropic]:
    """A client that does not retry."""
    with anthropic.Anthropic(api_key="k", base_url=started.base_url, max_retries=0) as client:
        yield client
