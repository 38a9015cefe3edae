"""Records of batch jobs, as producers and readers see them."""

from dataclasses import dataclass
from typing import Any

import orjson

from penstock import events
from penstock.connection import Connection
from penstock.records import Record, checked_id, state_found
from penstock.scripts import script
from penstock.settings import ClientSettings
from penstock.shards import Counts, Shard
from penstock.spool import open_spool
from penstock.states import State


@dataclass(frozen=True, slots=True)
class Job:
    """A batch job's record and its shards, as they were at one moment."""

    record: Record
    shards: tuple[Shard, ...]

    @property
    def id(self) -> str:
        """The job's id."""
        return self.record.id

    @property
    def state(self) -> State:
        """Where the job stands."""
        return self.record.state

    @property
    def counts(self) -> Counts:
        """The counts of all shards together."""
        return sum((shard.counts for shard in self.shards), Counts())


class JobRecords:
    """Batch jobs in Redis, for producers and readers."""

    def __init__(self, connection: Connection, settings: ClientSettings) -> None:
        self._redis = connection
        self._settings = settings

    def read(self, id: str) -> Job:
        """The job. Raises `NotFound`."""
        keys = self._settings.keys.job(checked_id(id))
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.meta)
            pipe.hgetall(keys.shards)
            raw, shards = pipe.execute()
        record = Record.parse(id, raw)
        parsed = sorted((Shard.parse(shard) for shard in shards.values()), key=lambda s: s.number)
        return Job(record, tuple(parsed))

    def ids(self) -> list[str]:
        """The ids of the jobs that still have a record, newest first."""
        known = [id.decode() for id in self._redis.zrange(self._settings.keys.jobs, 0, -1)]
        with self._redis.pipeline(transaction=False) as pipe:
            for id in known:
                pipe.exists(self._settings.keys.job(id).meta)
            alive = pipe.execute()
        gone = [id for id, exists in zip(known, alive, strict=True) if not exists]
        if gone:
            self._redis.zrem(self._settings.keys.jobs, *gone)
        return [id for id, exists in zip(known, alive, strict=True) if exists][::-1]

    def discard(self, id: str) -> None:
        """Remove a job that has ended, with all it holds."""
        job = self.read(id)
        keys, shared = self._settings.keys.job(id), self._settings.keys
        store = open_spool(
            job.record.fields.get("spool", ""), self._redis, keys, self._settings.batch_ttl_s
        )
        store.clear(name for shard in job.shards for name in shard.chunk_names)
        self._redis.delete(keys.meta, keys.log, keys.shards, keys.claims, keys.money)
        self._redis.zrem(shared.live_shards, *(f"{id}/{shard.number}" for shard in job.shards))
        self._redis.zrem(shared.jobs, id)

    def cancel(self, id: str, who: str) -> State:
        """Ask for a job to be canceled; returns the state it had. Raises `NotFound`."""
        return self._rouse(id, "cancel", who)

    def resume(self, id: str, who: str) -> State:
        """Let a paused job go on; returns the state it had. Raises `NotFound`."""
        return self._rouse(id, "resume", who, {"type": events.RESUMED, "by": who})

    def _rouse(self, id: str, what: str, who: str, event: dict[str, Any] | None = None) -> State:
        keys = self._settings.keys.job(checked_id(id))
        names = [keys.meta, keys.shards, keys.claims, self._settings.keys.live_shards]
        state, _ = script("job_rouse")(
            self._redis,
            [*names, keys.log, keys.events],
            [what, who, orjson.dumps(event) if event else ""],
        )
        return state_found(id, state)
