"""A worker's claim on one shard: its lease, the renewal of it, and the fence."""

import contextlib
import logging
import threading
from typing import Final, Self

import redis

from penstock import events, json_text
from penstock.batches.notices import PauseReason
from penstock.states import State
from penstock.store import scripts, shard_scripts
from penstock.store.request_scripts import Invalid, UnclaimedEnd
from penstock.store.scripts import IN_GRACE, ClaimRefused, InGrace
from penstock.store.shard_scripts import ShardClaimed, ShardWritten
from tasks.batches.job_reader import JobReader

logger = logging.getLogger(__name__)

#: Milliseconds by which a wake-up may be early: its sender's clock can be ahead of Redis's.
EARLY_MS: Final = 1_000


class NotClaimed(Exception):
    """The shard is claimed by another worker or has no work due."""


class JobUnreadable(NotClaimed):
    """No worker can read the record of the job, which has failed. The text says why."""


class InGracePeriod(Exception):
    """Redis was interrupted: for a time, workers can renew their claims, and no other may claim."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(IN_GRACE)
        self.wait_s = wait_s  #: seconds until shards can be claimed again


class Fenced(Exception):
    """Another worker has claimed the shard, or the job has ended: Redis refuses the write."""


class Lease:
    """The exclusive right to work on one shard, renewed by a thread until it is released.

    Every claim of a shard has a higher epoch than all before it, and Redis refuses what is written
    under an earlier one.
    """

    def __init__(
        self, job: JobReader, number: int, *, worker: str, epoch: int, cancel: str
    ) -> None:
        self.worker = worker
        self.epoch = epoch
        self.held = True  #: whether it is still to be released
        self.cancel = cancel  #: who asked to cancel the job, as of the last reply; empty: no one
        self._job = job
        self._number = number
        self._stopped = threading.Event()

    @classmethod
    def acquire(cls, job: JobReader, number: int, *, worker: str) -> tuple[Self, ShardClaimed]:
        """Claim a shard; returns the lease and what the claim found.

        Raises `NotClaimed`, `JobUnreadable`, `InGracePeriod`.
        """
        reply = shard_scripts.claim(
            job.keys,
            job.settings.keys,
            number,
            worker=worker,
            lease_ms=job.settings.lease_ms,
            early_ms=EARLY_MS,
        ).run(job.redis)
        if isinstance(reply, InGrace):
            raise InGracePeriod(reply.wait_ms / 1000)
        if isinstance(reply, Invalid):
            raise _failed(job, number, reply)
        if isinstance(reply, ClaimRefused):
            raise NotClaimed(reply.reason)
        return cls(job, number, worker=worker, epoch=reply.epoch, cancel=reply.cancel), reply

    def renew(self) -> None:
        """Renew the lease now. Raises `Fenced` when the claim is lost."""
        job = self._job
        reply = shard_scripts.renew(
            job.keys,
            job.settings.keys,
            self._number,
            worker=self.worker,
            epoch=self.epoch,
            lease_ms=job.settings.lease_ms,
        ).run(job.redis)
        if isinstance(reply, scripts.Fenced):
            raise Fenced
        self.cancel = reply.cancel

    def start_renewing(self) -> None:
        """Start the thread that renews the lease."""
        name = f"lease-{self._job.id}/{self._number}"
        threading.Thread(target=self._keep_renewing, name=name, daemon=True).start()

    def stop_renewing(self) -> None:
        """Stop the thread that renews the lease."""
        self._stopped.set()

    def drop(self) -> None:
        """Note that the claim is released or lost: nothing is left to renew."""
        self.held = False
        self._stopped.set()

    def check(self, reply: ShardWritten | scripts.Fenced) -> ShardWritten:
        """Take note of the reply to a write. Raises `Fenced` if Redis refused it."""
        if isinstance(reply, scripts.Fenced):
            self.drop()
            raise Fenced
        self.cancel = reply.cancel
        return reply

    def _keep_renewing(self) -> None:
        # A renewal that fails needs no report: the next write of the step finds out.
        while not self._stopped.wait(self._job.settings.lease_ms / 3000):
            with contextlib.suppress(redis.RedisError):
                try:
                    self.renew()
                except Fenced:
                    return


def _failed(job: JobReader, number: int, fault: Invalid) -> JobUnreadable:
    """Fail a job whose record the claim script cannot read, so that it is not woken again.

    Nothing says what its batches were, so they cannot be collected.
    """
    message = f"{fault.part} {fault.problem}; look its batches up in the Console"
    logger.error("job %s has failed: %s", job.id, message)
    error = {"type": str(PauseReason.RECORD_UNREADABLE), "message": message}
    end = {"type": events.END, "state": State.FAILED, "error": error}
    shard_scripts.fail_unreadable(
        job.keys,
        job.settings.keys,
        number,
        end=UnclaimedEnd(json_text.dumps(end), json_text.dumps(error)),
        retention_s=job.settings.batch_retention_s,
    ).run(job.redis)
    return JobUnreadable(message)
