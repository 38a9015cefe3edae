"""Celery's remote control commands, as Flower and `celery control` send them."""

from typing import Any

import pytest
from celery import Celery

from penstock import Client, RequestCanceled
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.testing import wait_until
from tests.acceptance.conftest import Body

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")


@pytest.fixture
def control(penstock_redis: EmbeddedRedis) -> Any:
    return Celery(broker=penstock_redis.url).control


def answer(control: Any, command: str, **arguments: Any) -> dict[str, str]:
    """The answer of the stream worker."""
    workers = control.ping(timeout=10, limit=2)
    [node] = [name for each in workers for name in each if name.startswith("streams")]
    replies = control.broadcast(
        command, arguments=arguments, destination=[node], reply=True, timeout=10, limit=1
    )
    reply: dict[str, str] = replies[0][node]
    return reply


def test_a_command_without_meaning_is_answered_with_what_to_use_instead(control: Any) -> None:
    assert "--concurrency" in answer(control, "pool_grow", n=2)["error"]
    assert "--concurrency" in answer(control, "autoscale", max=9, min=1)["error"]
    assert "SIGTERM" in answer(control, "pool_restart")["error"]
    limited = answer(control, "time_limit", task_name="penstock.stream", hard=1)
    assert "PENSTOCK_STREAM_TOTAL_TIMEOUT_S" in limited["error"]
    assert "streams or batches" in answer(control, "add_consumer", queue="stream")["error"]


def test_a_stream_is_canceled_by_terminate_whatever_the_signal(
    control: Any, penstock_client: Client, body: Body
) -> None:
    request = penstock_client.messages.enqueue(**body("Long. [[sim deltas=600 rate=10]]"))
    wait_until(request.text, what="some text")
    assert "ok" in answer(control, "revoke", task_id=[request.id], terminate=True, signal="KILL")
    with pytest.raises(RequestCanceled, match="terminate"):
        request.result(timeout=30)
    assert "pong" in control.ping(timeout=10, limit=2)[0].popitem()[1].get("ok", "")
