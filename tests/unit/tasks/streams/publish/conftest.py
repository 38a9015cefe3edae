"""A publisher for the tests of one."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from penstock.store.availability import Outage
from tasks.streams.publish import publisher
from tests.unit.tasks.streams.publish.publisher_stage import Stage, on_stage

T = TypeVar("T")


@pytest.fixture
def perform(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a test with a publisher and its streams, in a process without an outage."""
    monkeypatch.setattr(publisher, "outage", Outage())

    def run(test: Callable[[Stage], Awaitable[T]], streams: int = 1) -> T:
        return on_stage(monkeypatch, test, streams)

    return run
