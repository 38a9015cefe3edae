"""``penstock queues``: what waits in the queues, and which workers take it."""

import json
from contextlib import closing
from typing import Any

import click

from penstock.cli.text.output import print_line, quantity
from penstock.queue import names
from penstock.queue.consumers import find_consumers
from penstock.queue.lengths import lengths_by_priority
from penstock.settings import ClientSettings
from penstock.store.connection import Connection, connect, redis_errors_translated


@click.command(short_help="Show the length of each queue and its workers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def queues(as_json: bool) -> None:
    """Show the length of each queue by priority, and the workers that consume it.

    A queue is one Redis list for each priority: `redis-cli llen streams` counts only priority 0,
    and requests have priority 3 by default. The messages are wake-ups; `unfinished` counts the
    requests, and the shards of jobs, that have not ended, whether or not they wait.

    \b
      penstock queues
      penstock queues --json
    """
    settings = ClientSettings.load()
    with closing(connect(settings)) as connection, redis_errors_translated(settings):
        found = queue_lengths(connection, settings)
    for queue, workers in find_consumers(settings).items():
        found["queues"][queue]["workers"] = workers
    if as_json:
        print_line(json.dumps(found))
        return
    for queue, facts in found["queues"].items():
        by_priority = ", ".join(
            f"{n:,} of priority {p}" for p, n in facts["by_priority"].items() if n
        )
        consumers = ", ".join(facts["workers"]) or "no worker"
        detail = f" ({by_priority})" if by_priority else ""
        print_line(f"{queue:<12}{facts['waiting']:,} waiting{detail}; {consumers}")
    left = found["unfinished"]
    requests, shards = quantity(left["requests"], "request"), quantity(left["shards"], "shard")
    print_line(f"{'unfinished':<12}{requests}, {shards} of batch jobs")


def queue_lengths(connection: Connection, settings: ClientSettings) -> dict[str, Any]:
    """Count the messages in the queues, and the requests and shards that have not ended."""
    found = {}
    for queue in names.QUEUES:
        lengths = lengths_by_priority(connection, queue, settings.key_prefix)
        by_priority = {str(priority): length for priority, length in lengths.items()}
        found[queue] = {"waiting": sum(lengths.values()), "by_priority": by_priority}
    unfinished = {
        "requests": int(connection.zcard(settings.keys.live)),
        "shards": int(connection.zcard(settings.keys.live_shards)),
    }
    return {"queues": found, "unfinished": unfinished}
