"""The submission of a batch job: validates, divides and stores its requests, then records it.

Nothing is enqueued before the last request is valid and stored. A producer that fails or dies
before leaves no job, and its chunks expire. The requests are never held in memory as a whole.
"""

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson
import redis
from redis.exceptions import NoPermissionError

from penstock import events
from penstock.batches.custom_ids import CustomIds
from penstock.batches.failed_requests import check_retry
from penstock.batches.numbered import NumberedRequests
from penstock.batches.options import SubmissionOptions
from penstock.batches.planner import Betas, PlannedShard, Planner
from penstock.batches.shard import Counts, Shard
from penstock.batches.wire import EMPTY_BODY_BYTES, REQUEST_BYTES
from penstock.clock import now_ms
from penstock.errors import InvalidRequest, RedisUnavailable, SpoolUnavailable
from penstock.input_bound import input_bound
from penstock.keys import JobKeys
from penstock.settings import ClientSettings
from penstock.spool.chunks import CHUNK_BYTES, ChunkMissing
from penstock.spool.stores import open_chunk_store
from penstock.spool.writer import BackgroundWriter
from penstock.store import job_scripts
from penstock.store.connection import Connection
from penstock.store.record import LOST_AFTER_MS
from penstock.store.redis_protocol import Pipeline
from penstock.store.scripts import Arg, NotLoaded, ScriptCall
from penstock.validation import check_line, encode_body

logger = logging.getLogger(__name__)

#: Lifetime of chunks in seconds until the job is recorded; from then on the job's TTL applies.
SPOOLING_TTL_S: Final = 3_600

#: Maximum bytes of unfinished chunks of all open shards. Above it the largest is stored as it is,
#: so that a job with many sets of betas needs no more memory than a job with one.
_MAX_OPEN_BYTES: Final = 8 * 1024 * 1024


class Submission:
    """Submits one job: first `spool`, then `enqueue`."""

    def __init__(
        self, id: str, connection: Connection, settings: ClientSettings, options: SubmissionOptions
    ) -> None:
        self.id = id
        self.keys: JobKeys = settings.keys.job(id)
        self._redis = connection
        self._settings = settings
        self._options = options
        self._betas = options.all_betas
        self._chunks = open_chunk_store(settings.spool_url, connection, self.keys, SPOOLING_TTL_S)
        self._planner = Planner(
            requests=options.shard_requests or settings.shard_requests,
            bytes=settings.shard_bytes,
            empty=EMPTY_BODY_BYTES,
            offset=random.getrandbits(32),
            canary=options.canary,
        )
        self._custom_ids = CustomIds()
        self._open: dict[int, _OpenShard] = {}
        self._open_bytes = 0
        self._canary_betas: Betas = ()
        self._shards: list[Shard] = []
        self._names: list[str] = []
        self._may_be_recorded = False

    def spool(self, requests: Iterable[Any]) -> None:
        """Validate and store the requests.

        Raises `InvalidRequest`, which names the line and the field; nothing stays stored then.
        """
        writer = BackgroundWriter(self._chunks, refresh_ttl_s=SPOOLING_TTL_S)
        try:
            with writer:
                self._store_all(writer, requests)
        except BaseException:
            with suppress(redis.RedisError, SpoolUnavailable):  # the chunks expire anyway
                self._chunks.remove_all(writer.chunks)
            raise
        self._shards.sort(key=lambda shard: shard.number)
        self._names = list(writer.chunks)

    def enqueue(self, announce: Callable[[Shard], None]) -> None:
        """Record the spooled job and send the wake-ups of its shards: ``announce``.

        If that fails, the job is withdrawn, so that no incomplete job runs and it can be submitted
        again. A job that a worker has already claimed continues, since its requests may be at the
        API; the reaper sends the wake-ups that are missing.
        """
        try:
            self._record()
            for shard in self._shards[: 1 if self._options.canary else None]:
                announce(shard)
        except BaseException as error:
            if self._withdraw(error) or not isinstance(error, Exception):
                raise
            logger.warning("job %s continues although a wake-up failed: %s", self.id, error)

    def _store_all(self, writer: BackgroundWriter, requests: Iterable[Any]) -> None:
        count = 0
        numbered = requests if isinstance(requests, NumberedRequests) else None
        for request in requests:
            count += 1
            self._add(writer, count, numbered.line if numbered else count, request)
        self._check_count(count)
        for number in list(self._open):
            self._close(writer, number)

    def _add(self, writer: BackgroundWriter, count: int, line: int, request: Any) -> None:
        try:
            custom_id, params, betas = check_line(request)
            if before := self._custom_ids.add(custom_id, line):
                raise _duplicate_id(before, custom_id)
            if betas or count <= self._options.canary:
                betas = self._all_betas(count, betas)
            else:
                betas = self._betas
            encoded = _encoded(params)
        except InvalidRequest as error:
            raise error.at_line(line) from None
        planned, closed = self._planner.place(len(encoded) + REQUEST_BYTES, betas)
        if closed is not None:
            self._close(writer, closed.number)
        shard = self._open.get(planned.number)
        if shard is None:
            shard = self._open[planned.number] = _OpenShard(planned, count - 1, params["model"])
        self._open_bytes += shard.add(count - 1, custom_id, params, encoded)
        if len(shard.requests) >= CHUNK_BYTES:
            self._store(writer, shard)
        elif self._open_bytes > _MAX_OPEN_BYTES:
            self._store(writer, max(self._open.values(), key=lambda each: len(each.requests)))

    def _all_betas(self, count: int, betas: Betas) -> Betas:
        """Return the betas of a request and of the job. Raises `InvalidRequest` in a canary."""
        betas = tuple(sorted({*self._betas, *betas})) if betas else self._betas
        if count <= self._options.canary:
            if count == 1:
                self._canary_betas = betas
            elif betas != self._canary_betas:
                problem = "must be those of the first request: those of a canary share one set"
                raise InvalidRequest(problem, field="betas")
        return betas

    def _check_count(self, count: int) -> None:
        if not count:
            raise InvalidRequest("at least one request is required", field="requests")
        if count <= self._options.canary:
            problem = f"must be less than the number of requests ({count})"
            raise InvalidRequest(problem, field="canary")

    def _store(self, writer: BackgroundWriter, shard: "_OpenShard", *, last: bool = False) -> None:
        """Pass on a shard's requests; its ids only if they fill a chunk or are the ``last``."""
        self._open_bytes -= len(shard.requests)
        writer.put(f"requests-{shard.number}", shard.requests)
        shard.requests = bytearray()
        if last or len(shard.ids) >= CHUNK_BYTES:
            writer.put(f"ids-{shard.number}", shard.ids)
            shard.ids = bytearray()

    def _close(self, writer: BackgroundWriter, number: int) -> None:
        shard = self._open.pop(number)
        self._store(writer, shard, last=True)
        self._shards.append(shard.as_record(writer.chunks))

    def _record(self) -> None:
        """Record the job and log its first event."""
        keys, settings, shards = self.keys, self._settings, self._shards
        if not self._chunks.refresh_ttl(self._names, settings.batch_ttl_s):
            raise ChunkMissing("stored requests have expired: was this process suspended?")
        seconds, _ = self._redis.time()
        check_ms = seconds * 1000 + LOST_AFTER_MS
        retry_of = self._options.retry_of
        submit = self._submit()
        is_loaded = submit.script.is_loaded(self._redis)

        def queue(pipe: Pipeline) -> None:
            if retry_of:  # which is watched: if another job gets its requests, nothing is written
                check_retry(self._redis, settings.keys, retry_of, self.id)
            pipe.multi()
            pipe.hset(keys.shards, mapping={str(s.number): s.encode() for s in shards})
            pipe.expire(keys.shards, settings.batch_ttl_s)
            if self._options.max_cost_usd is not None:
                pipe.hset(keys.money, "cap", round(self._options.max_cost_usd * 1_000_000))
                pipe.expire(keys.money, settings.batch_ttl_s)
            submit.add_to(pipe, is_loaded=is_loaded)
            pipe.zadd(
                settings.keys.live_shards, {f"{self.id}/{s.number}": check_ms for s in shards}
            )
            pipe.zadd(settings.keys.jobs, {self.id: now_ms()})
            self._may_be_recorded = True

        watched = [settings.keys.job(retry_of).meta] if retry_of else []
        try:
            self._redis.transaction(queue, *watched)
        except NoPermissionError:
            if is_loaded:
                raise
            raise NotLoaded from None  # what is denied is to send the text of the script

    def _submit(self) -> ScriptCall[bool]:
        count, requests = len(self._shards), sum(shard.requests for shard in self._shards)
        queued = {"type": events.QUEUED, "id": self.id, "requests": requests, "shards": count}
        meta: dict[str, Arg] = {
            "kind": "batch",
            "model": self._shards[0].model,
            "shards": count,
            "left": count,
            "requests": requests,
            "spool": self._settings.spool_url,
            "headers": orjson.dumps(self._options.other_headers),
        }
        if self._options.retry_of:
            meta["retry_of"] = self._options.retry_of
        if self._options.canary:
            meta["waiting_for_canary"] = "canary"
        return job_scripts.submit(
            self.keys,
            ttl_s=self._settings.batch_ttl_s,
            first_event=events.encode(0, 1, queued),
            fields=meta,
        )

    def _withdraw(self, error: BaseException) -> bool:
        """Remove the job unless a worker has claimed it; returns whether it is removed.

        Raises `RedisUnavailable` if that is unknown.
        """
        try:
            gone = job_scripts.withdraw(self.keys, self._settings.keys).run(self._redis)
            if gone:
                with suppress(SpoolUnavailable):  # the reaper removes them later
                    self._chunks.remove_all(self._names)
        except redis.RedisError:
            if not self._may_be_recorded:
                return True
            raise RedisUnavailable(
                f"Redis became unavailable while job {self.id} was recorded ({error}). It may "
                f"exist: check with 'penstock batch status {self.id}' before submitting it again"
            ) from error
        return gone


def _duplicate_id(line: int, custom_id: str) -> InvalidRequest:
    return InvalidRequest(f"{custom_id!r} was already used in line {line}", field="custom_id")


def _encoded(params: dict[str, Any]) -> bytes:
    try:
        return encode_body(params)
    except InvalidRequest as error:
        raise error.inside("params") from None


class _OpenShard:
    """A shard that requests are still added to, with those that are not stored yet."""

    __slots__ = ("first", "ids", "last", "model", "number", "plan", "requests", "size_by_model")

    def __init__(self, plan: PlannedShard, first: int, model: str) -> None:
        self.plan = plan
        self.number = plan.number
        self.first = self.last = first
        self.model = model
        self.size_by_model: dict[str, list[int]] = {}
        self.requests = bytearray()  #: lines of params
        self.ids = bytearray()  #: lines of position and custom_id

    def add(self, position: int, custom_id: str, params: dict[str, Any], line: bytes) -> int:
        """Add a request; returns the bytes of memory that its line takes."""
        requests, model = self.requests, params["model"]
        requests += line
        requests += b"\n"
        self.ids += f"{position} {custom_id}\n".encode()
        self.last = position
        size_by_model = self.size_by_model.get(model)
        if size_by_model is None:
            size_by_model = self.size_by_model[model] = [0, 0, 0]
        tokens, full = input_bound(params, line)
        size_by_model[0] += tokens
        size_by_model[1] += params["max_tokens"]
        size_by_model[2] += full
        return len(line) + 1

    def as_record(self, chunks: Mapping[str, int]) -> Shard:
        """Return the shard's record after its last request. ``chunks``: name → number."""
        number, plan = self.number, self.plan
        return Shard(
            number=number,
            requests=plan.requests,
            size=plan.size,
            first=self.first,
            last=self.last,
            model=self.model,
            betas=plan.betas,
            live=plan.live,
            size_by_model=self.size_by_model,
            spool=str(number),
            request_chunks=chunks[f"requests-{number}"],
            id_chunks=chunks[f"ids-{number}"],
            counts=Counts(processing=plan.requests),
        )
