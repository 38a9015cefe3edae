"""Requests that wait for the API: for how long, what their records show, and their deadlines."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from penstock import Client
from penstock.clock import now_ms
from penstock.keys import Keys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from penstock.streams.stream import StreamRequest
from penstock.testing import wait_until
from tests.acceptance.stage import events_of

MODEL = "claude-opus-5"

Send = Callable[..., StreamRequest]

pytestmark = pytest.mark.usefixtures("penstock_workers")


@pytest.fixture
def send(
    penstock_client: Client, penstock_redis: EmbeddedRedis, body: Callable[..., dict[str, Any]]
) -> Iterator[Send]:
    """Enqueues a request of a model whose rate limit is forgotten after the test."""

    def enqueue(text: str, **options: Any) -> StreamRequest:
        fields = {"model": MODEL, **options}
        return penstock_client.messages.enqueue(**body(f"{text} [[sim rate=0]]", **fields))

    yield enqueue
    with redis.Redis.from_url(penstock_redis.url) as connection:
        keys = Keys()
        connection.delete(
            keys.rate_limit(MODEL), keys.rate_limit_calls(MODEL), keys.rate_limit_turns(MODEL)
        )


def test_a_retry_after_of_days_holds_its_own_lane_back_for_minutes(
    penstock_control: Control, send: Send
) -> None:
    """The deadline ends one that waits, and the records of the others show for what they wait."""
    penstock_control.fault(status=429, retry_after=3 * 86_400, times=1)
    refused = send("Refused.")
    wait_until(lambda: "waits_for" in refused.record().fields)
    later, late = send("Later."), send("Late.", deadline=2)
    wait_until(lambda: "waits_for" in later.record().fields)
    for request in (refused, later):
        left_s = (int(request.record().fields["wait_until_ms"]) - now_ms()) / 1000
        assert 600 < left_s <= 900
    assert "rate_limit_error (HTTP 429)" in refused.record().fields["waits_for"]
    assert later.record().fields["waits_for"] == f"the API's rate limit for {MODEL}"
    assert events_of(late)[-1].data["error"]["type"] == "deadline_exceeded"
    assert events_of(send("Another.", service_tier="standard_only"))[-1].data["state"] == "done"
    assert events_of(send("Other.", model="claude-haiku-4-5"))[-1].data["state"] == "done"
    for request in (refused, later):
        request.cancel()
        assert events_of(request)[-1].data["state"] == "canceled"
        assert "waits_for" not in request.record().fields
