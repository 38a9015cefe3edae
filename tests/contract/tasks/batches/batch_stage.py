"""Jobs whose batches a test creates, and the real steps on them, without Celery."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import orjson

from config.settings import WorkerSettings
from penstock.batches.options import SubmissionOptions
from penstock.batches.shard import Shard
from penstock.batches.submission import Submission
from penstock.batches.wire import wire_id
from penstock.clock import now_ms
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import SIMULATOR_KEY
from penstock.queue import names
from penstock.simulator.control import Control
from penstock.spool.chunks import lines_of
from penstock.spool.stores import open_chunk_store
from penstock.store import job_scripts
from penstock.store.connection import connect
from tasks.api.client import sync_client
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.step_result import StepResult
from tasks.batches.steps import BatchSteps
from tests.contract.batch_api import params
from tests.contract.jobs import release_after

NONCE = "abcdefghij01"


class BatchStage:
    """Jobs on a real Redis and a real simulator."""

    def __init__(self, server: EmbeddedRedis, control: Control, **settings: Any) -> None:
        self.settings = WorkerSettings.load(
            redis_url=server.url,
            key_prefix="stage",
            anthropic_base_url=control.base_url,
            anthropic_api_key=SIMULATOR_KEY,
            **{"batch_ttl_s": 1_000, "batch_retention_s": 50, "lease_ms": 60_000, **settings},
        )
        self.control = control
        self.redis: Any = connect(self.settings)
        self.api: anthropic.Anthropic = sync_client(self.settings)
        self.steps = BatchSteps(self.settings, self.api)

    def close(self) -> None:
        """Close what is open."""
        self.redis.close()
        self.api.close()

    def submit(self, *texts: str, **options: Any) -> "StagedJob":
        """Record a job with a request for each text."""
        id = new_id()
        submission = Submission(id, self.redis, self.settings, SubmissionOptions(**options))
        submission.spool(
            {"custom_id": f"r-{place}", "params": params(text, max_tokens=20_000)}
            for place, text in enumerate(texts)
        )
        submission.enqueue(lambda _: None)
        return StagedJob(self, id)

    def sent(self, *texts: str, ended: bool = True, **options: Any) -> "StagedJob":
        """Record a job and create the batches of its shards, which have ended by default."""
        job = self.submit(*texts, **options)
        for shard in job.shards():
            job.send(shard.number, ended=ended)
        return job


class StagedJob:
    """One job."""

    def __init__(self, stage: BatchStage, id: str) -> None:
        self.stage = stage
        self.id = id
        self.keys = stage.settings.keys.job(id)
        self._redis = stage.redis

    # -- what is recorded ------------------------------------------------------------------------

    def meta(self, field: str) -> str:
        """A field of the record; empty where there is none."""
        return (self._redis.hget(self.keys.meta, field) or b"").decode()

    def shard(self, number: int = 0) -> Shard:
        """A shard's record."""
        return Shard.parse(self._redis.hget(self.keys.shards, number))

    def shards(self) -> list[Shard]:
        """All shards, by number."""
        found = [Shard.parse(raw) for raw in self._redis.hvals(self.keys.shards)]
        return sorted(found, key=lambda shard: shard.number)

    def put(self, shard: Shard) -> None:
        """Write a shard's record by hand."""
        self._redis.hset(self.keys.shards, shard.number, shard.encode())

    def chunks(self) -> set[str]:
        """The names of the chunks that are stored."""
        found = self._redis.scan_iter(self.keys.chunks("*").replace("[", r"\["), count=1000)
        return {key.decode().rpartition(":")[2] for key in found}

    def lines(self, name: str, count: int) -> list[bytes]:
        """The lines of some chunks."""
        store = open_chunk_store(self.stage.settings.spool_url, self._redis, self.keys, 1_000)
        return [line for chunk in store.read(name, count) for line in lines_of(chunk)]

    def results(self) -> dict[str, Any]:
        """The result of each request that has one, by the custom_id that its producer gave it."""
        found: dict[str, Any] = {}
        for shard in self.shards():
            ids = [i.split(b" ")[1].decode() for i in self._ids(shard)]
            lines = self.lines(shard.results, shard.result_chunks) if shard.results else []
            assert len(lines) == shard.result_lines
            for line in lines:
                assert line.startswith(b'{"custom_id":"%s-' % shard.nonce.encode())
                fields = orjson.loads(line)
                custom_id = ids[int(fields["custom_id"][13:])]
                assert custom_id not in found
                found[custom_id] = fields["result"]
        return found

    def _ids(self, shard: Shard) -> list[bytes]:
        return self.lines(shard.id_chunk_name, shard.id_chunks)

    def events(self) -> list[dict[str, Any]]:
        """The data of all events."""
        entries = self._redis.xrange(self.keys.log)
        return [orjson.loads(fields[b"d"])["data"] for _, fields in entries]

    # -- what a test does -------------------------------------------------------------------------

    def send(
        self, number: int = 0, *, nonce: str = NONCE, confirmed: bool = True, ended: bool = True
    ) -> str:
        """Create the batch of a shard, as the create step does; returns the batch's id."""
        shard = self.shard(number)
        lines = self.lines(shard.request_chunk_name, shard.request_chunks)
        batch = self.stage.api.messages.batches.create(
            requests=[
                {"custom_id": wire_id(nonce, index), "params": orjson.loads(line)}
                for index, line in enumerate(lines)
            ]
        )
        self.bind(number, batch.id, confirmed=confirmed)
        if ended:
            self.stage.control.end_batch(batch.id)
        return batch.id

    def bind(self, number: int, batch_id: str, *, confirmed: bool = True) -> None:
        """Record that this batch is the shard's."""
        sending = self.shard(number).evolve(nonce=NONCE, sent_ms=now_ms())
        self.put(
            sending.evolve(
                state="in_progress", batch_id=batch_id, confirmed=confirmed, created_ms=now_ms()
            )
        )
        shared = self.stage.settings.keys
        self._redis.set(shared.batch_owner(batch_id), f"{self.id}/{number}", ex=100)
        self._redis.hset(shared.active_batches, f"{self.id}/{number}", f"1 {now_ms() + 100_000}")
        self._redis.expire(shared.active_batches, 100)

    def cancel(self) -> None:
        """Ask for the job to be canceled."""
        shared = self.stage.settings.keys
        job_scripts.wake(self.keys, shared, action="cancel", who="me").run(self._redis)

    @contextmanager
    def claimed(self, number: int = 0, worker: str = "w") -> Iterator[ClaimedShard]:
        """Claim a shard, whether it is due or not."""
        self._redis.hdel(self.keys.claims, f"{number}:due")
        with ClaimedShard.claim(
            self._redis, self.stage.settings, job=self.id, shard=number, worker=worker
        ) as work:
            yield work

    def step(self, name: str, number: int = 0) -> StepResult:
        """Run a step and release the claim as its task does."""
        with self.claimed(number) as work:
            result = self.stage.steps.run(name, work)
            release_after(work, result)
        return result

    def poll(self, number: int = 0) -> StepResult:
        """The poll step."""
        return self.step(names.BATCH_POLL, number)

    def collect(self, number: int = 0) -> StepResult:
        """The poll step, which finds the batch ended, and the collect step."""
        if self.shard(number).state == "in_progress":
            self.poll(number)
        return self.step(names.BATCH_COLLECT, number)

    def finish(self, number: int = 0) -> StepResult:
        """The finish step."""
        return self.step(names.BATCH_FINISH, number)
