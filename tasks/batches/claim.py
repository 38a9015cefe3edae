"""A shard claimed for one step: its record, the job's events, and the fence round both."""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, Self

import orjson
import redis

from config.settings import WorkerSettings
from penstock import events
from penstock.batches.shard import Shard
from penstock.clock import now_ms
from penstock.spool.chunks import ChunkStore
from penstock.spool.stores import open_spool
from penstock.states import State
from penstock.store import scripts, shard_scripts
from penstock.store.connection import Connection
from penstock.store.scripts import ClaimRefused, Restarted, ScriptCall
from penstock.store.shard_scripts import Becomes, ShardClaimed, ShardWritten

logger = logging.getLogger(__name__)

#: A wake-up whose clock is a little ahead of Redis's still finds its shard due.
EARLY_MS: Final = 1_000

#: Most milliseconds to wait until a write is on disk; then the step gives up and comes back.
_ON_DISK_MS: Final = 4_000


#: Behind this age of a batch the API has removed its results for certain.
_RESULTS_GONE_MS: Final = 30 * 86_400_000

#: So many shards of a job ask after the usual time, more of them after a longer one; a fraction of
#: the visibility timeout.
_ASKING: Final = 100
_LONGEST_S: Final = 400.0


class NotClaimed(Exception):
    """Somebody else is at this shard, or there is nothing (left) to do for it now."""


class Settling(Exception):
    """Redis was restarted, and nothing is claimed before claims that it lost are renewed."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("Redis was restarted")
        self.wait_s = wait_s  #: until it can be claimed


class Fenced(Exception):
    """The shard was claimed by another worker meanwhile, or its job has ended."""


class ClaimedShard:
    """The right to work on a shard for one step; its lease is renewed until it is released."""

    def __init__(
        self,
        connection: Connection,
        settings: WorkerSettings,
        *,
        job: str,
        worker: str,
        claim: ShardClaimed,
    ) -> None:
        self.redis = connection
        self.settings = settings
        self.job = job
        self.keys = settings.keys.job(job)
        self.shard = Shard.parse(claim.record)
        self.epoch = claim.epoch
        self._cancel = claim.cancel
        self._saw_cancel = bool(self._cancel)
        self.paused: dict[str, Any] | None = orjson.loads(claim.paused) if claim.paused else None
        self._worker = worker
        self._held = True
        self._over = threading.Event()

    @classmethod
    @contextlib.contextmanager
    def claim(
        cls,
        connection: Connection,
        settings: WorkerSettings,
        *,
        job: str,
        shard: int,
        worker: str,
    ) -> Iterator[Self]:
        """Claim a shard for the length of the block. Raises `NotClaimed`, `Settling`.

        Left without a `release`, by an error, the shard comes due again after a while.
        """
        reply = shard_scripts.claim(
            settings.keys.job(job),
            settings.keys,
            shard,
            worker=worker,
            lease_ms=settings.lease_ms,
            early_ms=EARLY_MS,
        ).run(connection)
        if isinstance(reply, Restarted):
            raise Settling(reply.wait_ms / 1000)
        if isinstance(reply, ClaimRefused):
            raise NotClaimed(reply.reason)
        work = cls(connection, settings, job=job, worker=worker, claim=reply)
        threading.Thread(target=work._renew, name=f"lease-{job}/{shard}", daemon=True).start()
        try:
            yield work
        finally:
            work._over.set()
            if work._held:
                with contextlib.suppress(Fenced, redis.RedisError):
                    work.release(countdown_s=settings.wakeup_retry_s)

    @property
    def cancel(self) -> str:
        """Who asked for the job to be canceled; empty: nobody did. A step that was told neither
        with its claim nor when it asked here is run again at once."""
        self._saw_cancel = bool(self._cancel)
        return self._cancel

    @property
    def member(self) -> str:
        """How the shard is called in keys that all jobs share."""
        return f"{self.job}/{self.shard.number}"

    def write(
        self,
        changed: Shard | None = None,
        *,
        also: Sequence[Shard] = (),
        event: dict[str, Any] | None = None,
        left: int = 0,
        spent: int | Literal["all"] | None = None,
        durable: bool = False,
        **meta: Any,
    ) -> None:
        """Write the record (and new shards: ``also``), an event and fields of the job; the claim
        is kept. Raises `Fenced`.

        ``left`` is added to the shards that are left; ``spent`` settles the shard's reservation, in
        millionths of a dollar (``all``: to the most that it could be). ``durable``: return when the
        write is on Redis's disk, where Redis has one; raises `redis.TimeoutError` if that takes too
        long.
        """
        records = [shard for shard in (changed, *also) if shard is not None]
        call = self._call("hold", event=event, left=left, spent=spent, records=records, meta=meta)
        self._took(self._write_durably(call) if durable else self._write(call))
        self.shard = changed or self.shard

    def advance(self, step: str, changed: Shard, **options: Any) -> None:
        """Write the record and tell readers about it. Raises `Fenced`."""
        event = {
            "type": events.PROGRESS,
            "step": step,
            "shard": changed.number,
            "state": changed.state,
            "batch_id": changed.batch_id,
            "requests": changed.requests,
            "counts": orjson.loads(orjson.dumps(changed.counts)),
        }
        self.write(changed, event=event, **options)

    def release(
        self,
        *,
        countdown_s: float = 0.0,
        park: bool = False,
        done: bool = False,
        pause: dict[str, Any] | None = None,
    ) -> float:
        """Give up the claim. Returns the seconds until the shard is due, below 0 if it is parked.

        ``done``: there is nothing left to do for the shard. ``pause``: pause the job for this
        reason, unless it is to be canceled. A parked shard whose batch is at the API is looked at
        once a day all the same: its results do not wait for ever. Raises `Fenced`.
        """
        event = None
        if pause is not None and (self.paused or {}).get("type") == pause["type"]:
            pause = None  # it has been since then
        if pause is not None:
            pause = {**pause, "shard": self.shard.number, "at_ms": now_ms()}
            event = {"type": events.PAUSED, "reason": pause}
        becomes: Becomes = int(countdown_s * 1000)
        if done:
            becomes = "done"
        elif park:
            age_ms = now_ms() - self.shard.created_ms
            becomes = "rest" if self.shard.batch_id and age_ms < _RESULTS_GONE_MS else "park"
        reply = self._took(self._write(self._call(becomes, event=event, pause=pause)))
        self._held = False
        return reply.due_in_ms / 1000

    def end(self, final: State, event: dict[str, Any], **meta: Any) -> None:
        """End the job: its last event, its state. Raises `Fenced`."""
        self._took(self._write(self._call("hold", event=event, final=final, meta=meta)))
        self._held = False

    def alert(self, kind: str, message: str) -> None:
        """Note in the job's record, once, that somebody has to look. Raises `Fenced`."""
        [before] = self.read_job("alert")
        if before and orjson.loads(before)["type"] == kind:
            return
        alert = {"type": kind, "message": message, "at_ms": now_ms()}
        logger.warning("job %s shard %s: %s: %s", self.job, self.shard.number, kind, message)
        event = {"type": events.ALERT, "alert": alert}
        self.write(event=event, alert=orjson.dumps(alert))

    def check(self) -> None:
        """Renew the lease now. Raises `Fenced` when the claim is lost."""
        reply = shard_scripts.renew(
            self.keys,
            self.settings.keys,
            self.shard.number,
            worker=self._worker,
            epoch=self.epoch,
            lease_ms=self.settings.lease_ms,
        ).run(self.redis)
        if isinstance(reply, scripts.Fenced):
            raise Fenced
        self._cancel = reply.cancel

    def now_ms(self) -> int:
        """The time by Redis's clock, which all workers share: what one notes another compares."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def read_job(self, *fields: str) -> list[str]:
        """Fields of the job's record; empty where there is none."""
        return [(value or b"").decode() for value in self.redis.hmget(self.keys.meta, *fields)]

    def longer_s(self, seconds: float) -> float:
        """How long the shard is to wait for something that all of the job's shards wait for: in a
        job of thousands they would keep the workers busy with asking."""
        left = int(self.read_job("left")[0] or 0)
        return min(seconds * max(1.0, left / _ASKING), max(seconds, _LONGEST_S))

    def all_shards(self) -> list[Shard]:
        """Every shard of the job, as it stands, by number."""
        shards = [Shard.parse(raw) for raw in self.redis.hvals(self.keys.shards)]
        return sorted(shards, key=lambda shard: shard.number)

    def store(self) -> ChunkStore:
        """Where the job's chunks lie."""
        [url] = self.read_job("spool")
        return open_spool(url, self.redis, self.keys, self.settings.batch_ttl_s)

    def _call(
        self,
        becomes: Becomes,
        *,
        event: dict[str, Any] | None = None,
        final: str = "",
        pause: dict[str, Any] | None = None,
        left: int = 0,
        spent: int | Literal["all"] | None = None,
        records: Sequence[Shard] = (),
        meta: dict[str, Any] | None = None,
    ) -> ScriptCall[ShardWritten | scripts.Fenced]:
        settings = self.settings
        return shard_scripts.write(
            self.keys,
            settings.keys,
            self.shard.number,
            worker=self._worker,
            epoch=self.epoch,
            ttl_s=settings.batch_retention_s if final else settings.batch_ttl_s,
            check_after_ms=int(settings.wakeup_retry_s * 1000),
            becomes=becomes,
            event=orjson.dumps(event) if event else b"",
            final_state=final,
            pause=orjson.dumps(pause) if pause else b"",
            left=left,
            spent=spent,
            saw_cancel=self._saw_cancel,
            records=[(shard.number, shard.encode()) for shard in records],
            fields=meta,
        )

    def _write(
        self, call: ScriptCall[ShardWritten | scripts.Fenced]
    ) -> ShardWritten | scripts.Fenced:
        return call.run(self.redis)

    def _write_durably(
        self, call: ScriptCall[ShardWritten | scripts.Fenced]
    ) -> ShardWritten | scripts.Fenced:
        # WAITAOF is about what its own connection wrote, so both go down the same one.
        with self.redis.pipeline(transaction=False) as pipe:
            call.add_to(pipe)
            # Below the driver's own timeout, so that a server without a disk says so.
            patience_ms = min(_ON_DISK_MS, int(self.settings.redis_timeout_s * 800))
            pipe.execute_command("WAITAOF", 1, 0, patience_ms)
            written, on_disk = pipe.execute(raise_on_error=False)
        if isinstance(written, Exception):
            raise written
        if isinstance(on_disk, redis.ResponseError):
            return call.parse(written)  # no append-only file, or a server from before Redis 7.2
        if isinstance(on_disk, Exception):
            raise on_disk
        if not on_disk[0]:
            raise redis.TimeoutError("Redis did not bring a write to disk in time")
        return call.parse(written)

    def _took(self, reply: ShardWritten | scripts.Fenced) -> ShardWritten:
        if isinstance(reply, scripts.Fenced):
            self._held = False
            raise Fenced
        self._cancel = reply.cancel
        self.paused = orjson.loads(reply.paused) if reply.paused else None
        return reply

    def _renew(self) -> None:
        """Renew the lease until the step is over. One that fails is for the next write to tell."""
        while not self._over.wait(self.settings.lease_ms / 3000):
            with contextlib.suppress(redis.RedisError):
                try:
                    self.check()
                except Fenced:
                    return
