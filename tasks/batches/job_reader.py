"""Reads a batch job: the fields of its record, its shards, and where its chunks are stored."""

import contextlib
from typing import Final

from config.settings import WorkerSettings
from penstock import json_text
from penstock.batches.shard import Shard
from penstock.errors import RecordUnreadable
from penstock.keys import Keys
from penstock.spool.chunks import ChunkStore
from penstock.spool.names import permitted_spool
from penstock.spool.stores import open_chunk_store
from penstock.store.connection import Connection
from penstock.validation import recorded_headers

#: Seconds until staged chunks expire, from the last one on. Without it, the chunks of a worker that
#: was killed would fill Redis for as long as the job lives.
STAGING_TTL_S: Final = 3_600


class JobReader:
    """One job, as the steps of its shards read it. No claim is needed to read."""

    def __init__(self, connection: Connection, settings: WorkerSettings, id: str) -> None:
        self.redis = connection
        self.settings = settings
        self.id = id
        self.keys = settings.keys.job(id)

    def fields(self, *names: str) -> list[str]:
        """Fields of the job's record; empty where a field is missing."""
        return [(value or b"").decode() for value in self.redis.hmget(self.keys.meta, *names)]

    def shards_left(self) -> int:
        """Number of shards that are not collected yet."""
        [left] = self.fields("left")
        return int(left or 0)

    def shards(self) -> list[Shard]:
        """Every shard of the job whose record can be read, by number.

        The step of a shard whose record cannot reports it; the other shards do not depend on it.
        """
        shards = list[Shard]()
        for raw in self.redis.hvals(self.keys.shards):
            with contextlib.suppress(RecordUnreadable):
                shards.append(Shard.parse(raw))
        return sorted(shards, key=lambda shard: shard.number)

    def some_shards(self, most: int) -> list[Shard]:
        """Up to ``most`` shards of the job, at random: all of them if it has no more.

        Its cost does not depend on the size of the job.
        """
        found = self.redis.hrandfield(self.keys.shards, most, True) or []
        shards = list[Shard]()
        # RESP3 has pairs, RESP2 names and values in turn.
        pairs = found and isinstance(found[0], list)
        for raw in [pair[1] for pair in found] if pairs else found[1::2]:
            with contextlib.suppress(RecordUnreadable):
                shards.append(Shard.parse(raw))
        return shards

    def shard_count(self) -> int:
        """The number of records of shards, readable or not."""
        return self.redis.hlen(self.keys.shards)

    def headers(self) -> dict[str, str]:
        """The headers that the producer wants sent to the API with every call."""
        [headers] = self.fields("headers")
        return recorded_headers(json_text.loads(headers)) if headers else {}

    def store(self) -> ChunkStore:
        """Where the job's chunks are stored. Raises `ConfigurationError` for another spool."""
        [address] = self.fields("spool")
        return self._open(address, self.settings.batch_ttl_s)

    def staging_store(self, address: str) -> ChunkStore:
        """The same for chunks that no record names yet; ``address``: the job's field ``spool``."""
        return self._open(address, STAGING_TTL_S)

    def _open(self, address: str, ttl_s: int) -> ChunkStore:
        url = permitted_spool(address, self.settings)
        return open_chunk_store(url, self.redis, self.keys, ttl_s)

    def now_ms(self) -> int:
        """The time by Redis's clock, so that the times different workers note are comparable."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


def find_shard(connection: Connection, keys: Keys, member: str) -> Shard | None:
    """Read the shard of any job by its name ``<job>/<shard>``.

    None: it has expired, or cannot be read, which must not stop the shards of other jobs.
    """
    job, _, number = member.partition("/")
    raw = connection.hget(keys.job(job).shards, number)
    try:
        return None if raw is None else Shard.parse(raw)
    except RecordUnreadable:
        return None
