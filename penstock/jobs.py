"""Records of batch jobs: their shards, their spooled requests and their collected results.

A job is any number of requests; a shard is the part of it that becomes one batch at the API.
Request and result lines lie in Redis as compressed chunks of JSONL, so that neither a message
nor a process ever holds a whole job.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from penstock import events
from penstock.connection import Connection
from penstock.errors import InvalidRequest, PenstockError
from penstock.keys import JobKeys
from penstock.records import Record, checked_id, now_ms, state_found
from penstock.requests import check_line, encode_body
from penstock.scripts import script
from penstock.settings import ClientSettings
from penstock.shards import Counts, Shard
from penstock.states import State

#: A chunk holds lines up to about so many bytes before compression.
CHUNK_BYTES = 256 * 1024
#: How long a chunk lives while the producer is still writing; afterwards the job's TTL counts.
SPOOLING_TTL_S = 3_600
#: Limits of one batch at the API; until jobs are split into shards, also of a job.
MAX_BATCH_REQUESTS = 100_000
MAX_BATCH_BYTES = 256_000_000

_HEAD = b'{"requests":['
_TAIL = b"]}"


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


def chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Pack lines (each ending in ``\\n``) into compressed chunks."""
    packed: list[bytes] = []
    size = 0
    for line in lines:
        packed.append(line)
        size += len(line)
        if size >= CHUNK_BYTES:
            yield zlib.compress(b"".join(packed), level=1)
            packed, size = [], 0
    if packed:
        yield zlib.compress(b"".join(packed), level=1)


def unpacked(chunk: bytes) -> list[bytes]:
    """The lines of a chunk, without their line ends. Split on ``\\n`` alone: JSON may contain
    U+2028, U+0085 and other characters that ``splitlines`` takes for line ends."""
    return zlib.decompress(chunk).rstrip(b"\n").split(b"\n")


def create_body(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The body of the API's create call, from stored lines, without ever holding it whole."""
    yield _HEAD
    separator = b""
    for line in lines:
        yield separator + line
        separator = b","
    yield _TAIL


class JobRecords:
    """Batch jobs in Redis, for producers and readers."""

    def __init__(self, connection: Connection, settings: ClientSettings) -> None:
        self._redis = connection
        self._settings = settings

    def spool(self, id: str, requests: Iterable[Any]) -> tuple[Shard, str]:
        """Check and store the requests of a new job; returns its shard and its model.

        Raises `InvalidRequest` naming the line, and stores nothing then.
        """
        keys = self._settings.keys.job(id)
        check = _LineCheck()
        spool = keys.spool(0)
        stored = 0
        try:
            for chunk in chunks(check(requests)):
                with self._redis.pipeline(transaction=False) as pipe:
                    pipe.rpush(spool, chunk)
                    pipe.expire(spool, SPOOLING_TTL_S)
                    length = pipe.execute()[0]
                stored += 1
                _all_there(length, stored)
        except BaseException:
            with suppress(redis.RedisError):  # its TTL does the same, later
                self._redis.delete(spool)
            raise
        if not check.requests:
            raise InvalidRequest("at least one request is required", field="requests")
        shard = Shard(
            number=0,
            requests=check.requests,
            size=check.size,
            counts=Counts(processing=check.requests),
        )
        return shard, check.model

    def submit(self, id: str, shard: Shard, model: str) -> None:
        """Record a spooled job and log its first event."""
        keys, ttl = self._settings.keys.job(id), self._settings.batch_ttl_s
        created = now_ms()
        queued = {"type": events.QUEUED, "id": id, "requests": shard.requests, "shards": 1}
        meta = ["kind", "batch", "model", model, "created_ms", created]
        submit = script("submit")
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.shards, str(shard.number), shard.encode())
            pipe.expire(keys.shards, ttl)
            pipe.expire(keys.spool(shard.number), ttl)
            pipe.eval(
                submit.text,
                3,
                *(keys.meta, keys.log, keys.events),
                *(ttl, events.encode(0, 1, queued), "", "", *meta),
            )
            pipe.zadd(self._settings.keys.jobs, {id: created})
            pipe.execute()

    def discard(self, id: str) -> None:
        """Remove a job that could not be announced, or that has ended, with all it holds."""
        keys = self._settings.keys.job(id)
        numbers = [int(number) for number in self._redis.hkeys(keys.shards)] or [0]
        shards = [key for n in numbers for key in (keys.spool(n), keys.results(n))]
        self._redis.delete(keys.meta, keys.log, keys.shards, *shards)
        self._redis.zrem(self._settings.keys.jobs, id)

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

    def results(self, keys: JobKeys, shard: int) -> Iterator[bytes]:
        """The collected result lines of a shard, in the order in which the API gave them."""
        yield from stored_lines(self._redis, keys.results(shard))

    def cancel(self, id: str, who: str) -> State:
        """Ask for a job to be canceled; returns its state. Raises `NotFound`."""
        keys = self._settings.keys.job(checked_id(id))
        names = [keys.meta, keys.log, keys.events, self._settings.keys.control]
        return state_found(id, script("cancel")(self._redis, names, [who, "", ""]))


def _all_there(stored: int, written: int) -> None:
    if stored != written:
        raise PenstockError(
            f"the producer paused for over {SPOOLING_TTL_S} s: its requests have expired"
        )


def stored_lines(connection: Connection, key: str) -> Iterator[bytes]:
    """The lines of a list of chunks, fetched a chunk at a time."""
    for index in range(int(connection.llen(key))):
        chunk = connection.lindex(key, index)
        if chunk is not None:
            yield from unpacked(chunk)


class _LineCheck:
    """Checks request lines as they pass, and counts them."""

    def __init__(self) -> None:
        self.requests = 0
        self.size = len(_HEAD) + len(_TAIL)  # of what `create_body` will yield
        self.model = ""
        self._seen: dict[str, int] = {}

    def __call__(self, requests: Iterable[Any]) -> Iterator[bytes]:
        for number, request in enumerate(requests, start=1):
            try:
                yield self._line(number, request)
            except InvalidRequest as error:
                raise error.at_line(number) from None

    def _line(self, number: int, request: Any) -> bytes:
        custom_id, params = check_line(request)
        first = self._seen.setdefault(custom_id, number)
        if first != number:
            raise InvalidRequest(
                f"{custom_id!r} was used in line {first} already", field="custom_id"
            )
        line = encode_body({"custom_id": custom_id, "params": params})
        self.size += len(line) + (1 if self.requests else 0)
        self.requests += 1
        self.model = self.model or params["model"]
        if self.requests > MAX_BATCH_REQUESTS:
            raise InvalidRequest(f"more than {MAX_BATCH_REQUESTS:,} requests")
        if self.size > MAX_BATCH_BYTES:
            raise InvalidRequest(f"more than {MAX_BATCH_BYTES:,} bytes of requests")
        return line + b"\n"
