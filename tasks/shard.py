"""A shard claimed for one step: its record, the job's events, and the fence round both."""

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import orjson

from penstock import events
from penstock.connection import Connection
from penstock.jobs import stored_lines
from penstock.keys import JobKeys
from penstock.scripts import script
from penstock.settings import ClientSettings
from penstock.shards import Shard


class NotClaimed(Exception):
    """Somebody else is at this shard, or there is nothing left to do for it."""


class Fenced(Exception):
    """The shard was claimed by another worker meanwhile, or its job has ended."""


class ClaimedShard:
    """The right to work on a shard for one step."""

    def __init__(
        self,
        connection: Connection,
        keys: JobKeys,
        settings: ClientSettings,
        shard: Shard,
        epoch: int,
        cancel: str,
    ) -> None:
        self.redis = connection
        self.keys = keys
        self.shard = shard
        self.epoch = epoch
        self.cancel = cancel  #: who asked for the job to be canceled; empty if nobody did
        self._settings = settings

    @classmethod
    @contextlib.contextmanager
    def claim(
        cls,
        connection: Connection,
        settings: ClientSettings,
        *,
        job: str,
        shard: int,
        worker: str,
        lease_s: int,
    ) -> Iterator[Self]:
        """Claim a shard for the length of the block. Raises `NotClaimed`."""
        keys = settings.keys.job(job)
        names = [keys.meta, keys.shards, keys.shard_lease(shard)]
        reply = script("shard_claim")(connection, names, [shard, worker, lease_s * 1000])
        if reply[0] != b"claimed":
            raise NotClaimed(reply[0].decode())
        _, epoch, raw, cancel = reply
        claimed = cls(connection, keys, settings, Shard.parse(raw), epoch, cancel.decode())
        try:
            yield claimed
        finally:
            with contextlib.suppress(Fenced):
                claimed.write(release=True)

    def write(
        self,
        changed: Shard | None = None,
        *,
        event: dict[str, Any] | None = None,
        final: str = "",
        release: bool = False,
        **meta: Any,
    ) -> None:
        """Write the record, an event and fields of the job. Raises `Fenced`."""
        keys, number = self.keys, self.shard.number
        ttl = self._settings.batch_retention_s if final else self._settings.batch_ttl_s
        reply = script("shard_write")(
            self.redis,
            [
                *(keys.meta, keys.shards, keys.log, keys.shard_lease(number), keys.events),
                keys.spool(number),
            ],
            [
                number,
                self.epoch,
                changed.encode() if changed else "",
                orjson.dumps(event) if event else "",
                ttl,
                int(release),
                final,
                *(item for pair in meta.items() for item in pair),
            ],
        )
        if reply[0] != b"ok":
            raise Fenced
        self.cancel = reply[1].decode()
        self.shard = changed or self.shard

    def advance(self, step: str, changed: Shard) -> None:
        """Write the record and tell readers about it. Raises `Fenced`."""
        event = {
            "type": events.PROGRESS,
            "step": step,
            "shard": changed.number,
            "batch_id": changed.batch_id,
            "requests": changed.requests,
            "counts": orjson.loads(orjson.dumps(changed.counts)),
        }
        self.write(changed, event=event, refusals=0)

    def requests(self) -> Iterator[bytes]:
        """The shard's request lines, a chunk at a time."""
        return stored_lines(self.redis, self.keys.spool(self.shard.number))

    def all_shards(self) -> list[Shard]:
        """Every shard of the job, as it stands."""
        return [Shard.parse(raw) for raw in self.redis.hvals(self.keys.shards)]
