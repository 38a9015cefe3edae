"""``penstock queues``: the lengths of the queues."""

import json
from typing import Any

from click.testing import CliRunner

from penstock.cli import cli
from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis

BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}


def test_the_queues_are_counted_by_priority_with_what_has_not_ended() -> None:
    with EmbeddedRedis() as server, Client(server.url) as client:
        client.messages.enqueue(**BODY)
        client.messages.enqueue(**BODY, priority=0)
        client.messages.batches.create(requests=[{"custom_id": "one", "params": BODY}])
        runner = CliRunner(env={"PENSTOCK_REDIS_URL": server.url})
        shown = runner.invoke(cli, ["queues"], catch_exceptions=False)
        found = json.loads(runner.invoke(cli, ["queues", "--json"], catch_exceptions=False).stdout)
    streams = {"waiting": 2, "by_priority": {"0": 1, "3": 1, "6": 0, "9": 0}, "workers": []}
    assert found["queues"]["streams"] == streams
    assert found["queues"]["batches"]["waiting"] == 1
    assert found["unfinished"] == {"requests": 2, "shards": 1}
    assert "2 waiting (1 of priority 0, 1 of priority 3); no worker" in shown.stdout
    assert "2 requests, 1 shard of batch jobs" in shown.stdout
