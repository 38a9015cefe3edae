"""Fixtures of the relay's tests."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock.local.embedded_redis import EmbeddedRedis
from tasks.streams import calls
from tests.contract.tasks.streams.raw_api import Answer
from tests.contract.tasks.streams.relay_stage import RelayStage, on_stage

Perform = Callable[..., Any]


@pytest.fixture
def perform(penstock_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Perform:
    """Runs a test with a relay and an API that gives the answers named after it."""
    monkeypatch.setattr(calls, "RESUME_MAX_WAIT_S", 0.01)

    def run(test: Callable[[RelayStage], Awaitable[Any]], *answers: Answer, **settings: Any) -> Any:
        return on_stage(penstock_redis, test, *answers, **settings)

    return run
