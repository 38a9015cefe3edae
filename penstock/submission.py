"""Submission of a batch job: requests are checked, divided into shards and stored as they come.

Nothing is enqueued before the last request has passed; a producer that fails or dies half-way
leaves no job, and its chunks expire. A job of a million requests never lies in memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import redis

from penstock import events
from penstock.chunks import ChunkStore, ChunkWriter
from penstock.connection import Connection
from penstock.errors import InvalidRequest
from penstock.keys import JobKeys
from penstock.records import LOST_AFTER_MS, now_ms
from penstock.requests import check_line, encode_body
from penstock.scripts import script
from penstock.settings import ClientSettings
from penstock.shards import WIRE_ID, Counts, Shard
from penstock.spool import open_spool

#: Seconds a chunk lives while the producer is still writing; afterwards the job's TTL counts.
SPOOLING_TTL_S: Final = 3_600

#: The body of a create call, piece by piece: ``HEAD``, requests with ``,`` between, ``TAIL``; a
#: request is ``OPEN``, its custom_id on the wire, ``MIDDLE``, its params, ``CLOSE``.
HEAD: Final = b'{"requests":['
OPEN: Final = b'{"custom_id":"'
MIDDLE: Final = b'","params":'
CLOSE: Final = b"}"
TAIL: Final = b"]}"

_ENVELOPE = len(OPEN) + WIRE_ID + len(MIDDLE) + len(CLOSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What a producer may ask for beside the requests."""

    max_cost_usd: float | None = None  #: the job is paused before it can cost more
    headers: Mapping[str, str] = field(default_factory=dict)  #: ``anthropic-*``, for the API


class Submission:
    """One job on its way into Redis."""

    def __init__(self, id: str, connection: Connection, settings: ClientSettings) -> None:
        self.id = id
        self.keys: JobKeys = settings.keys.job(id)
        self._redis = connection
        self._settings = settings
        self._store: ChunkStore = open_spool(
            settings.spool_url, connection, self.keys, SPOOLING_TTL_S
        )
        self._open: _OpenShard | None = None
        self._shards: list[Shard] = []
        self._names: list[str] = []
        self._seen: set[str] = set()

    def spool(self, requests: Iterable[Any]) -> list[Shard]:
        """Check and store the requests. Raises `InvalidRequest` naming the line; nothing is kept
        then."""
        try:
            for number, request in enumerate(requests):
                self._take(number, request)
            self._close()
        except BaseException:
            with suppress(redis.RedisError):  # their TTL does the same, later
                self._store.remove(self._names)
            raise
        if not self._shards:
            raise InvalidRequest("at least one request is required", field="requests")
        return self._shards

    def record(self, options: JobOptions) -> None:
        """Record the spooled job and log its first event."""
        keys, settings, shards = self.keys, self._settings, self._shards
        self._store.keep(self._names, settings.batch_ttl_s)
        seconds, _ = self._redis.time()
        look_ms = seconds * 1000 + LOST_AFTER_MS
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.shards, mapping={str(s.number): s.encode() for s in shards})
            pipe.expire(keys.shards, settings.batch_ttl_s)
            if options.max_cost_usd is not None:
                pipe.hset(keys.money, "cap", int(options.max_cost_usd * 1_000_000))
                pipe.expire(keys.money, settings.batch_ttl_s)
            pipe.eval(script("submit").text, 3, *self._submit_args(options))
            pipe.zadd(settings.keys.live_shards, {f"{self.id}/{s.number}": look_ms for s in shards})
            pipe.zadd(settings.keys.jobs, {self.id: now_ms()})
            pipe.execute()

    def _submit_args(self, options: JobOptions) -> Iterator[Any]:
        count, requests = len(self._shards), sum(shard.requests for shard in self._shards)
        queued = {"type": events.QUEUED, "id": self.id, "requests": requests, "shards": count}
        meta = {
            "kind": "batch",
            "model": self._shards[0].model,
            "created_ms": now_ms(),
            "shards": count,
            "left": count,
            "requests": requests,
            "spool": self._settings.spool_url,
            "headers": orjson.dumps(dict(options.headers)),
        }
        yield from (self.keys.meta, self.keys.log, self.keys.events)
        yield from (self._settings.batch_ttl_s, events.encode(0, 1, queued), "", "")
        for name, value in meta.items():
            yield from (name, value)

    def _take(self, number: int, request: Any) -> None:
        try:
            custom_id, params = check_line(request)
            self._unused(custom_id)
            line = encode_body(params)
        except InvalidRequest as error:
            raise error.at_line(number + 1) from None
        shard = self._open
        if shard is not None and not self._fits(shard, line):
            self._close()
            shard = None
        if shard is None:
            shard = self._open = _OpenShard(self._store, len(self._shards), number)
            self._names += [shard.requests.name, shard.ids.name]
        shard.take(number, custom_id, params, line)

    def _unused(self, custom_id: str) -> None:
        if custom_id in self._seen:
            raise InvalidRequest(f"{custom_id!r} was used already", field="custom_id")
        self._seen.add(custom_id)

    def _fits(self, shard: "_OpenShard", line: bytes) -> bool:
        settings = self._settings
        return (
            shard.count < settings.shard_requests
            and shard.size + len(line) + _ENVELOPE + 1 <= settings.shard_bytes
        )

    def _close(self) -> None:
        if self._open is not None:
            self._shards.append(self._open.close())
            self._open = None


class _OpenShard:
    """A shard that requests are still added to."""

    def __init__(self, store: ChunkStore, number: int, first: int) -> None:
        self.requests = ChunkWriter(store, f"requests-{number}")
        self.ids = ChunkWriter(store, f"ids-{number}")
        self.count = 0
        self.size = len(HEAD) + len(TAIL)
        self._number = number
        self._first = self._last = first
        self._model = ""
        self._weight: dict[str, list[int]] = {}

    def take(self, position: int, custom_id: str, params: dict[str, Any], line: bytes) -> None:
        """Add a request."""
        self.requests.line(line)
        self.ids.line(b"%d %s" % (position, custom_id.encode()))
        self.size += len(line) + _ENVELOPE + (1 if self.count else 0)
        self.count += 1
        self._last = position
        self._model = self._model or params["model"]
        weight = self._weight.setdefault(params["model"], [0, 0])
        weight[0] += len(line)
        weight[1] += params["max_tokens"]

    def close(self) -> Shard:
        """Store what is left; returns the shard."""
        self.requests.close()
        self.ids.close()
        return Shard(
            number=self._number,
            requests=self.count,
            size=self.size,
            first=self._first,
            last=self._last,
            model=self._model,
            weight=self._weight,
            spool=str(self._number),
            request_chunks=self.requests.chunks,
            id_chunks=self.ids.chunks,
            counts=Counts(processing=self.count),
        )
