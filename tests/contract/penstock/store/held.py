"""The scripts of a shard's claim, called for shard 0 of a job as `ClaimedShard` calls them."""

from typing import Any, Literal

from penstock.batches.jobs import JobRecords
from penstock.store import shard_scripts
from penstock.store.shard_scripts import Becomes
from tests.contract.jobs import Desk
from tests.contract.penstock.store.calls import clock, reply

EVENT = b'{"type":"penstock.progress"}'
WAIT_MS = 7_000


class Held:
    """The scripts, called for shard 0 of a job as `ClaimedShard` calls them."""

    def __init__(self, desk: Desk, id: str) -> None:
        self.desk = desk
        self.redis = desk.connection
        self.keys = desk.keys(id)
        self.shared = desk.settings.keys
        self.live = self.shared.live_shards
        self.member = f"{id}/0"
        self.records = JobRecords(desk.connection, desk.settings)

    def claim(self, worker: str = "w", *, early_ms: int = 0, lease_ms: int = 60_000) -> Any:
        call = shard_scripts.claim(
            self.keys, self.shared, 0, worker=worker, lease_ms=lease_ms, early_ms=early_ms
        )
        return reply(self.redis, call)

    def renew(self, epoch: int, worker: str = "w") -> Any:
        call = shard_scripts.renew(
            self.keys, self.shared, 0, worker=worker, epoch=epoch, lease_ms=60_000
        )
        return reply(self.redis, call)

    def write(
        self,
        epoch: int,
        worker: str = "w",
        *,
        becomes: Becomes = "hold",
        event: bytes = b"",
        final: str = "",
        pause: bytes = b"",
        left: int = 0,
        spent: int | Literal["all"] | None = None,
        saw_cancel: bool = False,
        records: dict[int, bytes] | None = None,
        **meta: Any,
    ) -> Any:
        return reply(
            self.redis,
            shard_scripts.write(
                self.keys,
                self.shared,
                0,
                worker=worker,
                epoch=epoch,
                ttl_s=500,
                check_after_ms=WAIT_MS,
                becomes=becomes,
                event=event,
                final_state=final,
                pause=pause,
                left=left,
                spent=spent,
                saw_cancel=saw_cancel,
                records=list((records or {}).items()),
                fields=meta,
            ),
        )

    def reap(self) -> Any:
        call = shard_scripts.reap(
            self.keys, self.shared, 0, check_after_ms=WAIT_MS, lease_ms=60_000
        )
        return reply(self.redis, call)

    def whole(self) -> list[Any]:
        """Everything that Redis has of the job."""
        keys = self.keys
        hashes = [self.redis.hgetall(k) for k in (keys.meta, keys.shards, keys.claims, keys.money)]
        lease, score = (
            self.redis.get(keys.shard_lease(0)),
            self.redis.zscore(self.live, self.member),
        )
        return [*hashes, self.redis.xrange(keys.log), lease, score]

    def forget_claims(self, epoch: int) -> None:
        """Go back to an earlier claim, as a Redis that lost its last writes."""
        self.redis.hset(self.keys.claims, "0", f"{epoch} w0")
        self.redis.delete(self.keys.shard_lease(0))

    def checked_in_ms(self) -> int | None:
        """Milliseconds until the reaper checks the shard."""
        score = self.redis.zscore(self.live, self.member)
        return None if score is None else round(score - clock(self.redis), -3)

    def due(self) -> bytes | None:
        return self.redis.hget(self.keys.claims, "0:due")  # type: ignore[no-any-return]
