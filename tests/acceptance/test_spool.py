"""A job whose chunks are files, with real workers, from its submission to its deletion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import Client
from penstock.batches.shard import Counts
from penstock.local.embedded_redis import EmbeddedRedis
from tests.connections import redis_of

Body = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")


def test_a_job_runs_with_its_chunks_in_files(
    penstock_redis: EmbeddedRedis, former_spool: Path, body: Body
) -> None:
    requests = [{"custom_id": f"line-{i}", "params": body(f"hello {i}")} for i in range(12)]
    requests[3]["params"] = body("late [[sim expired first=1]]")
    with Client(penstock_redis.url, spool_url=f"file://{former_spool}") as client:
        batches = client.messages.batches
        job = batches.create(requests=requests, shard_requests=5)
        for _ in batches.events(job.id, timeout=30):
            pass
        assert batches.retrieve(job.id).request_counts == Counts(succeeded=12)
        results = batches.results(job.id, order="submitted")
        assert [line.custom_id for line in results] == [f"line-{i}" for i in range(12)]
        kept = {path.parent.name for path in former_spool.rglob("*") if path.is_file()}
        assert {name.partition("-")[0] for name in kept} == {"ids", "results"}
        assert list(redis_of(client).scan_iter(f"*{job.id}*chunks*")) == []
        batches.delete(job.id)
        assert list(former_spool.iterdir()) == []
