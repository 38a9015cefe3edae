"""Workers survive every error of Redis, and continue without an operator once it is over."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import LocalProcess
from penstock.local.stack import SIMULATOR_KEY, SimulatorProcess, WorkerProcess
from penstock.queue.names import QUEUES
from penstock.simulator.control import Control
from penstock.testing import wait_until
from tests.acceptance.stage import request_body
from tests.refusing_redis import REFUSALS, RefusingRedis
from workers.shutdown import STREAMS_LIMIT_S

REFUSED = "Redis is unavailable or refuses commands"
SERVED = "Redis is available again"

SETTINGS = {
    "PENSTOCK_LEASE_MS": "1500",
    "PENSTOCK_WAKEUP_RETRY_S": "0.5",
    "PENSTOCK_POLL_INTERVAL_MIN_S": "1",
    "PENSTOCK_POLL_INTERVAL_MAX_S": "1",
    "PENSTOCK_REDIS_TIMEOUT_S": "1",  # so that a hanging Redis is noticed soon
}


@dataclass
class Deployment:
    """Two workers behind the proxy, and a client that reaches Redis itself."""

    redis: EmbeddedRedis
    proxy: RefusingRedis
    client: Client
    control: Control
    workers: list[WorkerProcess]

    def refuse(self, refusal: str) -> None:
        """Refuse until all workers have noticed."""
        counts = self.counts(REFUSED)
        self.proxy.fault = REFUSALS[refusal]
        wait_until(lambda: self.more(REFUSED, counts), what=f"the workers to notice {refusal}")

    def serve(self) -> None:
        """Serve until all workers have noticed."""
        counts = self.counts(SERVED)
        self.proxy.fault = None
        wait_until(lambda: self.more(SERVED, counts), what="the workers to return")

    def counts(self, line: str) -> list[int]:
        return [worker.log.read_text().count(line) for worker in self.workers]

    def more(self, line: str, than: list[int]) -> bool:
        assert all(worker.alive for worker in self.workers)
        return all(now > before for now, before in zip(self.counts(line), than, strict=True))


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with (
        EmbeddedRedis() as redis,
        SimulatorProcess("--batch-seconds", "1") as simulator,
        RefusingRedis(redis.port) as proxy,
        Client(redis.url) as client,
    ):
        env = {
            **SETTINGS,
            "PENSTOCK_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "ANTHROPIC_BASE_URL": simulator.url,
            "ANTHROPIC_API_KEY": SIMULATOR_KEY,
            "C_FORCE_ROOT": "1",
        }
        workers = [WorkerProcess(queue, env=env) for queue in QUEUES]
        try:
            yield Deployment(redis, proxy, client, Control(simulator.url), workers)
        finally:
            for worker in workers:
                stop(worker)


def stop(process: LocalProcess) -> None:
    if process.started:
        process.kill()
        process.stop()


def test_workers_that_start_while_redis_is_full_wait_and_log_it_once(
    deployment: Deployment,
) -> None:
    deployment.proxy.fault = REFUSALS["a full Redis"]
    for worker in deployment.workers:
        worker.launch()
    wait_until(lambda: deployment.more(REFUSED, [0, 0]), timeout=60, what="the workers to wait")
    deployment.serve()
    for worker in deployment.workers:
        assert worker.wait_until_ready().log.read_text().count(REFUSED) == 1


@pytest.mark.parametrize("refusal", ["a replica", "garbage"])
def test_work_continues_after_a_refusal_and_no_call_is_repeated(
    deployment: Deployment, refusal: str
) -> None:
    enqueue, create = deployment.client.messages.enqueue, deployment.client.messages.batches.create
    created = deployment.control.stats()["batches_created"]
    running = enqueue(**request_body(f"Run. {refusal} [[sim deltas=30 rate=15]]"))
    job = create(requests=[{"custom_id": "a", "params": request_body(refusal)}])
    wait_until(running.text, what="some text")
    deployment.refuse(refusal)
    queued = enqueue(**request_body(f"Wait. {refusal} [[sim deltas=3 rate=0]]"))
    deployment.serve()
    for request in (running, queued):
        end: dict[str, Any] = list(request.events(timeout=30))[-1].data
        assert (end["state"], end["attempts"]) == ("done", 1)
    wait_until(
        lambda: deployment.client.messages.batches.retrieve(job.id).state == "done",
        what="the job to end",
    )
    assert deployment.control.stats()["batches_created"] == created + 1


def test_workers_survive_messages_that_are_not_celerys(deployment: Deployment) -> None:
    with redis.Redis.from_url(deployment.redis.url) as connection:
        for queue in QUEUES:
            connection.rpush(queue, "{", b"\xff", "[]", "{}", '{"properties": {}}', "7")
    request = deployment.client.messages.enqueue(**request_body("After. [[sim rate=0]]"))
    assert list(request.events(timeout=30))[-1].data["state"] == "done"
    dropped = "was dropped: it is not Celery's"
    wait_until(lambda: deployment.counts(dropped) == [6, 6])
    assert all(worker.alive for worker in deployment.workers)


def test_sigterm_ends_workers_within_the_grace_period_while_redis_hangs(
    deployment: Deployment,
) -> None:
    running = deployment.client.messages.enqueue(**request_body("Run. [[sim deltas=3000 rate=20]]"))
    wait_until(running.text, what="some text")
    deployment.proxy.hang()
    for worker in deployment.workers:
        os.kill(worker.pid, signal.SIGTERM)
    wait_until(
        lambda: not any(worker.alive for worker in deployment.workers),
        timeout=STREAMS_LIMIT_S,
        what="the workers to end",
    )
    assert [worker.exit_code for worker in deployment.workers] == [0, 0]
    deployment.proxy.resume()
    running.cancel()
