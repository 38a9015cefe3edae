"""Batch jobs for tests of the workers, recorded as a producer records them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, assert_never

import anthropic
import orjson

from config.settings import WorkerSettings
from penstock.batches.shard import Counts, Shard
from penstock.batches.wire import EMPTY_BODY_BYTES, REQUEST_BYTES
from penstock.clock import now_ms
from penstock.ids import new_id
from penstock.keys import JobKeys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from penstock.spool.chunks import ChunkWriter, lines_of
from penstock.spool.stores import open_chunk_store
from penstock.store import shard_scripts
from penstock.store.connection import connect
from penstock.store.shard_scripts import ShardClaimed
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.step_result import (
    JobEnded,
    Next,
    Parked,
    Redirect,
    RetryIn,
    ShardDone,
    StepResult,
)

MODEL = "claude-haiku-4-5"


def params(text: str = "hello", **more: Any) -> dict[str, Any]:
    """The params of a request."""
    message = {"role": "user", "content": text}
    return {"model": MODEL, "max_tokens": 20, "messages": [message], **more}


class Desk:
    """A deployment of its own: settings, Redis, the API, and jobs on it."""

    def __init__(self, server: EmbeddedRedis, url: str = "", **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "redis_url": server.url,
            "key_prefix": f"jobs-{new_id()[-8:]}",
            "lease_ms": 60_000,
            "batch_ttl_s": 1_000,
            "batch_retention_s": 50,
        }
        self.settings = WorkerSettings.load(**defaults | settings)
        self.connection: Any = connect(self.settings)  # tests use more commands than the product
        self.url = url

    def submit(self, *shards: list[dict[str, Any]], **meta: Any) -> str:
        """Record a job; each list of params is a shard."""
        id = new_id()
        for number, requests in enumerate(shards):
            self.write(id, self.spool(id, number, requests))
        keys = self.keys(id)
        count = sum(map(len, shards))
        fields = {"kind": "batch", "state": "queued", "epoch": 0, "n": 1, "created_ms": now_ms()}
        fields |= {"shards": len(shards), "left": len(shards), "requests": count, "spool": ""}
        self.connection.hset(keys.meta, mapping=fields | {"headers": "{}"} | meta)
        self.connection.xadd(keys.log, {"d": "{}"}, id="0-1")
        for key in (keys.meta, keys.log):
            self.connection.expire(key, self.settings.batch_ttl_s)
        return id

    def spool(self, id: str, number: int, requests: list[dict[str, Any]], **more: Any) -> Shard:
        """Store the requests of a shard."""
        lines = [orjson.dumps(each) for each in requests]
        store = self.store(id)
        bodies, ids = (ChunkWriter(store, f"{name}-{number}") for name in ("requests", "ids"))
        for index, line in enumerate(lines):
            bodies.line(line)
            ids.line(b"%d u%d" % (index, index))
        for writer in (bodies, ids):
            writer.close()
        size = EMPTY_BODY_BYTES + len(lines) - 1 + sum(len(line) + REQUEST_BYTES for line in lines)
        size_by_model = [sum(map(len, lines)), sum(each["max_tokens"] for each in requests)]
        return Shard(
            number=number,
            requests=len(lines),
            size=size,
            model=requests[0]["model"],
            size_by_model={requests[0]["model"]: size_by_model},
            spool=str(number),
            request_chunks=bodies.chunks,
            id_chunks=ids.chunks,
            counts=Counts(processing=len(lines)),
            **more,
        )

    def store(self, id: str) -> Any:
        """Where the job's chunks are stored."""
        return open_chunk_store("", self.connection, self.keys(id), self.settings.batch_ttl_s)

    def write(self, id: str, shard: Shard) -> None:
        """Write a shard's record as a producer does."""
        keys = self.keys(id)
        self.connection.hset(keys.shards, str(shard.number), shard.encode())
        self.connection.expire(keys.shards, self.settings.batch_ttl_s)
        self.connection.zadd(self.settings.keys.live_shards, {f"{id}/{shard.number}": 1})

    def change(self, id: str, number: int = 0, **changes: Any) -> Shard:
        """Change a shard's record without a claim."""
        shard = self.shard(id, number).evolve(**changes)
        self.write(id, shard)
        return shard

    def keys(self, id: str) -> JobKeys:
        """The job's keys."""
        return self.settings.keys.job(id)

    def shard(self, id: str, number: int = 0) -> Shard:
        """The shard as it is recorded."""
        return Shard.parse(self.connection.hget(self.keys(id).shards, str(number)))

    def meta(self, id: str, field: str) -> Any:
        """A field of the job's record."""
        value = self.connection.hget(self.keys(id).meta, field)
        return None if value is None else value.decode()

    def lines(self, id: str, name: str, count: int) -> list[bytes]:
        """The lines of chunks."""
        return [line for chunk in self.store(id).read(name, count) for line in lines_of(chunk)]

    @contextmanager
    def claimed(self, id: str, number: int = 0, worker: str = "w") -> Iterator[ClaimedShard]:
        """A claim, as a task has it."""
        with ClaimedShard.claim(
            self.connection, self.settings, job=id, shard=number, worker=worker
        ) as work:
            yield work

    def step(
        self, run: Callable[[ClaimedShard], StepResult], id: str, number: int = 0
    ) -> StepResult:
        """Run a step and release the claim as its task does."""
        self.connection.hdel(self.keys(id).claims, f"{number}:due")
        with self.claimed(id, number) as work:
            result = run(work)
            release_after(work, result)
        return result

    def take_over(self, id: str, number: int = 0, worker: str = "other") -> None:
        """Let another worker claim the shard, as if the lease of the first had expired."""
        keys = self.keys(id)
        self.connection.delete(keys.shard_lease(number))
        claim = shard_scripts.claim(
            keys, self.settings.keys, number, worker=worker, lease_ms=60_000, early_ms=0
        )
        assert isinstance(claim.run(self.connection), ShardClaimed)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def release_after(work: ClaimedShard, result: StepResult) -> None:
    """Release a claim as the task does after a step."""
    match result:
        case Next(pause=pause):
            work.release(pause=pause)
        case RetryIn(seconds):
            work.release(countdown_s=seconds)
        case Parked(pause=pause):
            work.park(pause=pause)
        case Redirect():
            work.release()
        case ShardDone():
            work.release(done=True)
        case JobEnded():
            pass
        case _:
            assert_never(result)


Kind = TypeVar("Kind")


def expect(kind: type[Kind], result: StepResult) -> Kind:
    """The result of a step, which has to be of this kind."""
    assert isinstance(result, kind), result
    return result


def api_at(control: Control, key: str = "simulated-key") -> anthropic.Anthropic:
    """The SDK as the workers use it, calling the simulator."""
    return anthropic.Anthropic(api_key=key, base_url=control.base_url, max_retries=0)
