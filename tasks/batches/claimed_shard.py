"""A claimed shard: its record, and everything a step writes under its lease."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, Self, TypeAlias

import orjson
import redis

from config.settings import WorkerSettings
from penstock import events, json_text
from penstock.access.redaction import redacted
from penstock.batches.notices import Alert
from penstock.batches.shard import Shard
from penstock.clock import now_ms
from penstock.errors import RecordUnreadable
from penstock.states import State
from penstock.store import scripts, shard_scripts
from penstock.store.connection import Connection
from penstock.store.durability import (
    NotDurable,
    is_not_durable,
    is_without_file,
    warn_without_file,
)
from penstock.store.scripts import ScriptCall
from penstock.store.shard_scripts import Becomes, ShardWritten
from tasks.batches.claim import Fenced, Lease
from tasks.batches.job_reader import JobReader

logger = logging.getLogger(__name__)

#: Maximum milliseconds to wait until a write is on disk; then the step fails and runs again.
_ON_DISK_MS: Final = 4_000

#: Milliseconds from the creation of a batch after which the API has certainly removed its results.
_RESULTS_GONE_MS: Final = 30 * 86_400_000

_Reply: TypeAlias = ShardWritten | scripts.Fenced


class ClaimedShard:
    """A shard that this worker has claimed for one step. Every write is fenced by its lease."""

    def __init__(self, job: JobReader, lease: Lease, shard: Shard, paused: bytes) -> None:
        self.job = job
        self.lease = lease
        self.shard = shard
        self.redis = job.redis
        self.settings = job.settings
        #: why the job is paused, as of the last reply of Redis; None: it is not
        self.paused = _notice(paused)
        self.unreadable = ""  #: why the record cannot be read; empty: it can
        self._saw_cancel = bool(lease.cancel)

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
        """Claim a shard for the length of the block. Raises `NotClaimed`, `InGracePeriod`.

        If the block is left without a `release`, by an error, the shard is due again after a while.
        """
        reader = JobReader(connection, settings, job)
        lease, found = Lease.acquire(reader, shard, worker=worker)
        try:
            work = cls(reader, lease, Shard.parse(found.record), found.paused)
        except RecordUnreadable as error:
            work = cls(reader, lease, Shard(number=shard), found.paused)
            named = re.search(rb"msgbatch_\w{1,64}", found.record)  # the operator can look it up
            work.unreadable = f"{error}; it names {named[0].decode()}" if named else str(error)
        lease.start_renewing()
        try:
            yield work
        finally:
            lease.stop_renewing()
            if lease.held:
                with contextlib.suppress(Fenced, redis.RedisError):
                    work.release(countdown_s=settings.wakeup_retry_s)

    @property
    def cancel(self) -> str:
        """Who asked to cancel the job; empty: no one did. A step that found no request to cancel
        when it was claimed or here runs again at once if one arrived in the meantime."""
        self._saw_cancel = bool(self.lease.cancel)
        return self.lease.cancel

    @property
    def member(self) -> str:
        """The name of the shard in keys that all jobs share."""
        return f"{self.job.id}/{self.shard.number}"

    def write(
        self,
        changed: Shard | None = None,
        *,
        also: Sequence[Shard] = (),
        event: dict[str, Any] | None = None,
        left: int = 0,
        spent: int | Literal["all"] | None = None,
        durable: bool = False,
        claimed: Sequence["ClaimedShard"] = (),
        **meta: Any,
    ) -> None:
        """Write the record, new shards (``also``), an event and fields of the job, all or nothing.

        ``left`` is added to the number of shards that are not collected. ``spent`` replaces the
        shard's reservation by its actual cost, in millionths of a dollar (``all``: by what was
        reserved). ``durable``: return once the write is on Redis's disk, where Redis has one.
        ``claimed``: other shards whose records are in ``also``; their claims are checked as well.

        The claim is kept. Raises `Fenced`, and `redis.TimeoutError` if the disk takes too long.
        """
        records = [shard for shard in (changed, *also) if shard is not None]
        options: dict[str, Any] = {"event": event, "left": left, "spent": spent, "meta": meta}
        call = self._call("hold", claimed, records=records, **options)
        self._accept(self._write_durably(call) if durable else self._write(call))
        self.shard = changed or self.shard

    def advance(
        self, step: str, changed: Shard, *, new_shards: Sequence[int] = (), **options: Any
    ) -> None:
        """Write the record and publish the progress. Raises `Fenced`.

        ``new_shards``: numbers of shards that this one was split into besides itself.
        """
        event: dict[str, Any] = {
            "type": events.PROGRESS,
            "step": step,
            "shard": changed.number,
            "state": changed.state,
            "batch_id": changed.batch_id,
            "requests": changed.requests,
            "counts": orjson.loads(orjson.dumps(changed.counts)),
        }
        if new_shards:
            event["new_shards"] = list(new_shards)
        self.write(changed, event=event, **options)

    def release(
        self,
        *,
        countdown_s: float = 0.0,
        done: bool = False,
        pause: dict[str, Any] | None = None,
    ) -> float:
        """Release the claim; returns the seconds until the shard is due. Raises `Fenced`.

        ``done``: nothing is left to do for the shard. ``pause``: pause the job for this reason,
        unless it is to be canceled.
        """
        return self._release("done" if done else int(countdown_s * 1000), pause) / 1000

    def park(self, *, pause: dict[str, Any] | None = None) -> float | None:
        """Release the claim until the job is resumed; ``pause`` as in `release`. Raises `Fenced`.

        Returns None if the shard is parked. Otherwise the job was resumed, or is to be canceled:
        returns the seconds until the shard is due. A shard whose batch is at the API is due once a
        day even while it is parked, since the API does not keep results for ever.
        """
        age_ms = now_ms() - self.shard.created_ms
        daily = self.shard.batch_id and age_ms < _RESULTS_GONE_MS
        wait_ms = self._release("rest" if daily else "park", pause)
        return None if wait_ms < 0 else wait_ms / 1000

    def end(self, final: State, event: dict[str, Any], **meta: Any) -> None:
        """End the job: write its last event and its state. Raises `Fenced`."""
        self._accept(self._write(self._call("hold", event=event, final=final, meta=meta)))
        self.lease.drop()

    def alert(self, kind: Alert, message: str) -> None:
        """Raise an alert, unless the last one was of the same kind. Raises `Fenced`."""
        [before] = self.job.fields("alert")
        if (_notice(before.encode()) or {}).get("type") == kind:
            return
        message = redacted(message)
        alert = {"type": kind, "message": message, "at_ms": now_ms()}
        logger.warning("job %s shard %s: %s: %s", self.job.id, self.shard.number, kind, message)
        event = {"type": events.ALERT, "alert": alert}
        self.write(event=event, alert=json_text.dumps(alert))

    def _release(self, becomes: Becomes, pause: dict[str, Any] | None) -> int:
        event = None
        if pause is not None and (self.paused or {}).get("type") == pause["type"]:
            pause = None  # the job is paused for this reason already
        if pause is not None:
            pause = {**pause, "shard": self.shard.number, "at_ms": now_ms()}
            event = {"type": events.PAUSED, "reason": pause}
        reply = self._accept(self._write(self._call(becomes, event=event, pause=pause)))
        self.lease.drop()
        return reply.due_in_ms

    def _call(
        self,
        becomes: Becomes,
        claimed: Sequence["ClaimedShard"] = (),
        *,
        event: dict[str, Any] | None = None,
        final: str = "",
        pause: dict[str, Any] | None = None,
        left: int = 0,
        spent: int | Literal["all"] | None = None,
        records: Sequence[Shard] = (),
        meta: dict[str, Any] | None = None,
    ) -> ScriptCall[_Reply]:
        settings = self.settings
        return shard_scripts.write(
            self.job.keys,
            settings.keys,
            self.shard.number,
            worker=self.lease.worker,
            epoch=self.lease.epoch,
            ttl_s=settings.batch_retention_s if final else settings.batch_ttl_s,
            check_after_ms=int(settings.wakeup_retry_s * 1000),
            becomes=becomes,
            event=json_text.dumps(event) if event else b"",
            final_state=final,
            pause=json_text.dumps(pause) if pause else b"",
            left=left,
            spent=spent,
            saw_cancel=self._saw_cancel,
            claimed=[(other.shard.number, other.lease.epoch) for other in claimed],
            records=[(shard.number, shard.encode()) for shard in records],
            fields=meta,
        )

    def _write(self, call: ScriptCall[_Reply]) -> _Reply:
        return call.run(self.redis)

    def _write_durably(self, call: ScriptCall[_Reply]) -> _Reply:
        # WAITAOF covers only what its own connection wrote, so both are sent on the same one.
        with self.redis.pipeline(transaction=False) as pipe:
            call.add_to(pipe)
            # Below the driver's own timeout, so that a slow disk is reported as such.
            timeout_ms = min(_ON_DISK_MS, int(self.settings.redis_timeout_s * 800))
            pipe.execute_command("WAITAOF", 1, 0, timeout_ms)
            written, on_disk = pipe.execute(raise_on_error=False)
        if isinstance(written, Exception):
            raise written
        if isinstance(on_disk, redis.ResponseError) and is_without_file(on_disk):
            warn_without_file()
            return call.parse(written)
        if isinstance(on_disk, redis.ResponseError) and is_not_durable(on_disk):
            raise NotDurable(on_disk)
        if isinstance(on_disk, Exception):
            raise on_disk
        if not on_disk[0]:
            raise redis.TimeoutError("Redis did not write to disk in time")
        return call.parse(written)

    def _accept(self, reply: _Reply) -> ShardWritten:
        written = self.lease.check(reply)
        self.paused = _notice(written.paused)
        return written


def _notice(raw: bytes) -> dict[str, Any] | None:
    """Parse why a job is paused, or its alert; None if there is nothing."""
    if not raw:
        return None
    try:
        notice = json_text.loads(raw)
    except ValueError:
        notice = None
    return notice if isinstance(notice, dict) else {"type": "", "message": "unreadable"}
