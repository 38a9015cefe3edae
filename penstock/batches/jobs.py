"""The records of batch jobs: read, resumed, canceled and removed by producers and readers."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from penstock import events, json_text
from penstock.batches.failed_requests import FailedRequests
from penstock.batches.results import Results
from penstock.batches.shard import Counts, Shard, ShardState
from penstock.errors import InvalidRequest, NotFound
from penstock.events import Event
from penstock.follow.waiting import read_waiting
from penstock.ids import is_id
from penstock.keys import JobKeys
from penstock.settings import ClientSettings
from penstock.spool.chunks import ChunkStore
from penstock.spool.names import permitted_spool
from penstock.spool.stores import open_chunk_store
from penstock.states import State
from penstock.store import job_index, job_scripts
from penstock.store.connection import Connection
from penstock.store.record import Record, checked_id, state_found
from penstock.store.redis_protocol import QueuedCommands
from penstock.store.snapshots import read_snapshot
from penstock.validation import check_text

#: Events after which any shard may have changed: the last one, and those of a log that lost events.
_FULL_READ: Final = (events.END, events.REWIND, events.SNAPSHOT)


@dataclass(frozen=True, slots=True)
class Job:
    """A batch job's record and its shards at one moment."""

    record: Record
    shards: tuple[Shard, ...]
    money: dict[str, int] = field(
        default_factory=dict
    )  #: the amounts of its cost cap: `JobKeys.money`

    @property
    def id(self) -> str:
        """The job's id."""
        return self.record.id

    @property
    def state(self) -> State:
        """The job's state."""
        return self.record.state

    @property
    def counts(self) -> Counts:
        """The requests of all shards by outcome; those of a shard that is not collected process.

        The API reports no counts before a batch has ended, and some of its requests may be retried.
        """
        known = (
            shard.counts
            if shard.state == ShardState.COLLECTED
            else Counts(processing=shard.requests)
            for shard in self.shards
        )
        return sum(known, Counts())


class JobRecords:
    """Batch jobs in Redis, for producers and readers."""

    def __init__(self, connection: Connection, settings: ClientSettings) -> None:
        self._redis = connection
        self._settings = settings

    def read(self, id: str) -> Job:
        """Read a job. A shard whose record cannot be read is in it: `UNREADABLE_RECORD`.

        Raises `NotFound`.
        """
        keys = self._settings.keys.job(checked_id(id))

        def queue(pipe: QueuedCommands) -> None:
            pipe.hgetall(keys.meta)
            pipe.hgetall(keys.money)
            pipe.hgetall(keys.shards)

        _, raw, money, shards = read_snapshot(self._redis, keys.meta, queue)
        record = Record.parse(id, raw)
        parsed = [Shard.parse_or_placeholder(shard, int(each)) for each, shard in shards.items()]
        ordered = sorted(parsed, key=lambda shard: shard.number)
        return Job(record, tuple(ordered), _amounts(money))

    def read_all(self, ids: Iterable[str]) -> Iterator[Job]:
        """Yield those of the jobs that have a record."""
        for id in ids:
            with suppress(NotFound):
                yield self.read(id)

    def record(self, id: str) -> Record:
        """Read a job's record without its shards. Raises `NotFound`."""
        return Record.parse(id, self._redis.hgetall(self._settings.keys.job(checked_id(id)).meta))

    def shard(self, id: str, number: int) -> Shard:
        """Read one shard of a job. Raises `NotFound`."""
        raw = self._redis.hget(self._settings.keys.job(checked_id(id)).shards, number)
        if raw is None:
            raise NotFound(f"{id} has no shard {number}, or the job has expired")
        return Shard.parse(raw)

    def updated(self, job: Job, event: Event) -> Job:
        """Return the job as it is after one more of its events. Raises `NotFound`.

        An event changes its own shard, or adds that shard's retry shard or the shards that it was
        split into, so only these are read: a job may have ten thousand shards. The record is the
        current one and may be ahead of the event. If it says that the job has ended, all shards are
        read, since the caller will wait for no further event.
        """
        number = event.data.get("shard")
        if event.type in _FULL_READ or not isinstance(number, int | None):
            return self.read(job.id)
        keys = self._settings.keys.job(job.id)
        changed: list[int] = []
        if number is not None:
            following = number + int(job.record.fields.get("shards", 0))
            changed = [number, following, *_new_shards(event)]

        def queue(pipe: QueuedCommands) -> None:
            pipe.hgetall(keys.meta)
            pipe.hgetall(keys.money)
            if changed:
                pipe.hmget(keys.shards, *changed)

        _, raw, money, *found = read_snapshot(self._redis, keys.meta, queue)
        record = Record.parse(job.id, raw)
        if record.state.ended:
            return self.read(job.id)
        read = zip(found[0] if found else (), changed, strict=True)
        fresh = [Shard.parse_or_placeholder(shard, each) for shard, each in read if shard]
        shards = {shard.number: shard for shard in (*job.shards, *fresh)}
        return Job(record, tuple(shards[number] for number in sorted(shards)), _amounts(money))

    def results(self, record: Record) -> Results:
        """Return the result lines of a job. Reading them waits while Redis is unavailable."""
        keys, url = (
            self._settings.keys.job(record.id),
            permitted_spool(record.fields.get("spool", ""), self._settings),
        )
        waiting = cast(Connection, _WaitingLists(self._redis))
        return Results(record.id, open_chunk_store(url, waiting, keys, self._settings.batch_ttl_s))

    def failed_requests(self, job: Job) -> FailedRequests:
        """Return the requests of an ended job that did not succeed."""
        return FailedRequests(self.results(job.record), job.shards)

    def history(self) -> list[dict[str, Any]]:
        """Return how long the last batches took: ``model``, ``requests`` and ``ms`` of each."""
        found = self._redis.lrange(self._settings.keys.history, 0, -1)
        return [json_text.loads(each) for each in found]

    def ids(self) -> list[str]:
        """Return the ids of the jobs that still have a record, newest first."""
        keys = self._settings.keys
        known = (id.decode(errors="replace") for id in self._redis.zrange(keys.jobs, 0, -1))
        # Scores are the times at which submissions were complete. Sorted by id, an id is a cursor.
        ours = sorted((id for id in known if is_id(id)), reverse=True)
        return job_index.existing(self._redis, keys, ours)

    def discard(self, id: str) -> None:
        """Remove an ended job with its chunks. Raises `NotFound`."""
        job = self.read(id)
        keys, shared = self._settings.keys.job(id), self._settings.keys
        store = self._store(job.record, keys)
        store.remove_all(name for shard in job.shards for name in shard.chunk_names)
        self._redis.delete(keys.meta, keys.log, keys.shards, keys.claims, keys.money)
        self._redis.zrem(shared.live_shards, *(f"{id}/{shard.number}" for shard in job.shards))
        self._redis.zrem(shared.jobs, id)

    def cancel(self, id: str, who: str) -> State:
        """Request that a job be canceled; returns the state it had. Raises `NotFound`."""
        check_text(who, "who")
        return self._wake(id, "cancel", who)

    def resume(self, id: str, who: str, cap: int | None = None) -> State:
        """Resume a paused job; returns the state it had.

        ``cap``: its new cost cap in millionths of a dollar. Raises `NotFound`, or `InvalidRequest`
        for the cap of a job that was submitted without one.
        """
        check_text(who, "who")
        money = self._settings.keys.job(checked_id(id)).money
        if cap is not None:
            self.record(id)
            # What a job without a cap has spent was not counted, so it cannot get one.
            if not self._redis.hexists(money, "cap"):
                raise InvalidRequest(
                    "the job was submitted without a cost cap", field="max_cost_usd"
                )
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(money, "cap", cap)
                # The job can have ended in between, and its keys expired: not one without a TTL.
                pipe.expire(money, self._settings.batch_ttl_s)
                pipe.execute()
        return self._wake(id, "resume", who, {"type": events.RESUMED, "by": who})

    def _store(self, record: Record, keys: JobKeys) -> ChunkStore:
        url = permitted_spool(record.fields.get("spool", ""), self._settings)
        return open_chunk_store(url, self._redis, keys, self._settings.batch_ttl_s)

    def _wake(
        self,
        id: str,
        what: Literal["cancel", "resume"],
        who: str,
        event: dict[str, Any] | None = None,
    ) -> State:
        shared = self._settings.keys
        wake = job_scripts.wake(
            shared.job(checked_id(id)),
            shared,
            action=what,
            who=who,
            event=json_text.dumps(event) if event else b"",
        )
        return state_found(id, wake.run(self._redis))


class _WaitingLists:
    """The part of a connection that reads chunks: lists, as `read_waiting`."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def lrange(self, name: str, start: int, end: int) -> list[bytes]:
        return read_waiting(lambda: self._redis.lrange(name, start, end))


def _new_shards(event: Event) -> list[int]:
    added = event.data.get("new_shards")
    return [each for each in added if isinstance(each, int)] if isinstance(added, list) else []


def _amounts(raw: dict[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(amount) for name, amount in raw.items()}
