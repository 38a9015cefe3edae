"""The scripts of a shard's claim, called for shard 0 of a job as `ClaimedShard` calls them."""

from typing import Any

from penstock.batches.jobs import JobRecords
from penstock.store.scripts import script
from tests.contract.jobs import Desk
from tests.contract.penstock.store.calls import clock

EVENT = b'{"type":"penstock.progress"}'
WAIT_MS = 7_000


class Held:
    """The scripts, called for shard 0 of a job as `ClaimedShard` calls them."""

    def __init__(self, desk: Desk, id: str) -> None:
        self.desk = desk
        self.redis = desk.connection
        self.keys = desk.keys(id)
        self.live = desk.settings.keys.live_shards
        self.member = f"{id}/0"
        self.records = JobRecords(desk.connection, desk.settings)

    def claim(self, worker: str = "w", *, early_ms: int = 0, lease_ms: int = 60_000) -> Any:
        keys = self.keys
        names = [keys.meta, keys.shards, keys.shard_lease(0), keys.claims, self.live]
        return script("shard_claim")(
            self.redis, [*names, self.desk.settings.keys.run], [0, worker, lease_ms, early_ms]
        )

    def renew(self, epoch: int, worker: str = "w") -> Any:
        keys = self.keys
        names = [keys.meta, keys.shard_lease(0), keys.claims, self.live, keys.shards]
        return script("shard_renew")(self.redis, names, [0, worker, epoch, 60_000])

    def write(
        self,
        epoch: int,
        worker: str = "w",
        *,
        becomes: str | int = "hold",
        event: bytes = b"",
        final: str = "",
        pause: bytes = b"",
        left: int = 0,
        spent: int | str = "",
        knew: bool = False,
        records: dict[int, bytes] | None = None,
        **meta: Any,
    ) -> Any:
        keys = self.keys
        names = [keys.meta, keys.shards, keys.log, keys.shard_lease(0), keys.events]
        args = [0, worker, epoch, 500, becomes, WAIT_MS, event, final, pause, left, spent]
        args += ["1" if knew else "", len(records or {})]
        args += [item for pair in (records or {}).items() for item in pair]
        args += [item for pair in meta.items() for item in pair]
        return script("shard_write")(self.redis, [*names, keys.claims, self.live, keys.money], args)

    def reap(self) -> Any:
        keys = self.keys
        names = [keys.meta, keys.shards, keys.shard_lease(0), keys.claims, self.live]
        return script("reap_shard")(self.redis, names, [0, WAIT_MS])

    def whole(self) -> list[Any]:
        """All that Redis holds of the job."""
        keys = self.keys
        hashes = [self.redis.hgetall(k) for k in (keys.meta, keys.shards, keys.claims, keys.money)]
        lease, score = (
            self.redis.get(keys.shard_lease(0)),
            self.redis.zscore(self.live, self.member),
        )
        return [*hashes, self.redis.xrange(keys.log), lease, score]

    def forget_claims(self, epoch: int) -> None:
        """Lose what a Redis lost that went back to an earlier claim."""
        self.redis.hset(self.keys.claims, "0", f"{epoch} w0")
        self.redis.delete(self.keys.shard_lease(0))

    def look_in_ms(self) -> int | None:
        """When the reaper looks at the shard, from now."""
        score = self.redis.zscore(self.live, self.member)
        return None if score is None else round(score - clock(self.redis), -3)

    def due(self) -> bytes | None:
        return self.redis.hget(self.keys.claims, "0:due")  # type: ignore[no-any-return]
