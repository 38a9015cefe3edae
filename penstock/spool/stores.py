"""The chunk store of a job: in Redis, or in files under any URL that fsspec knows.

Files do not expire by themselves. So each job with files has a deadline in a sorted set, and each
process that writes or refreshes chunks moves it on. `remove_orphans` removes the files that are
past theirs and no longer needed: those of a producer that died while it submitted the job, and
those of a job whose record has expired.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Final

from penstock.clock import now_ms
from penstock.errors import ConfigurationError, MissingDependency, PenstockError, SpoolUnavailable
from penstock.keys import JobKeys, Keys
from penstock.spool.chunks import ChunkMissing, ChunkStore, RedisChunkStore
from penstock.store.connection import Connection

logger = logging.getLogger(__name__)

#: Files fetched in one call, concurrently if the file system supports it.
_FETCHED_AT_ONCE: Final = 4

#: Maximum jobs that one call of `remove_orphans` checks.
_ORPHANS_AT_ONCE: Final = 20

#: Milliseconds until the removal of files that failed is tried again.
_RETRY_MS: Final = 600_000


def open_chunk_store(url: str, connection: Connection, keys: JobKeys, ttl_s: int) -> ChunkStore:
    """Open the chunk store of the job with these keys.

    ``url`` is the one in the job's record; empty: Redis. Chunks expire ``ttl_s`` seconds after they
    were last written or refreshed. Raises `MissingDependency` or `ConfigurationError`.
    """
    if not url:
        return RedisChunkStore(connection, keys, ttl_s)
    return FileChunkStore(url, connection, keys, ttl_s)


class FileChunkStore:
    """Chunks in files: ``<url>/<job>/<name>/<index>``."""

    def __init__(self, url: str, connection: Connection, keys: JobKeys, ttl_s: int) -> None:
        self._files, root = _file_system(url)
        self._url = url
        self._folder = f"{root.rstrip('/')}/{keys.id}"
        self._redis = connection
        self._spools = Keys(keys.prefix).spools
        self._member = f"{keys.id} {url}"
        self._ttl_s = ttl_s
        self._folders: set[str] = set()

    def add(self, name: str, index: int, chunk: bytes) -> None:
        """Store a chunk. Raises `SpoolUnavailable`."""
        if not self._folders:
            self.refresh_ttl((), self._ttl_s)  # before there is a file that could be orphaned
        try:
            if name not in self._folders:
                self._files.makedirs(f"{self._folder}/{name}", exist_ok=True)
                self._folders.add(name)
            self._files.pipe_file(self._path(name, index), chunk)
        except OSError as error:
            raise self._unavailable(error) from error

    def read(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        """Yield the chunks, fetched a few at a time.

        Raises `ChunkMissing` or `SpoolUnavailable`.
        """
        for start in range(first, count, _FETCHED_AT_ONCE):
            paths = [
                self._path(name, at) for at in range(start, min(start + _FETCHED_AT_ONCE, count))
            ]
            found = self._files.cat_ranges(paths, None, None, on_error="return")
            for index, chunk in enumerate(found, start=start):
                if isinstance(chunk, FileNotFoundError):
                    raise ChunkMissing(f"{name}: chunk {index} of {count} is missing") from chunk
                if isinstance(chunk, OSError):
                    raise self._unavailable(chunk) from chunk
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk

    def refresh_ttl(self, names: Iterable[str], seconds: int) -> bool:
        """Move the deadline of the whole job on; the files themselves are not checked."""
        self._redis.zadd(self._spools, {self._member: now_ms() + seconds * 1000})
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Remove the names' folders. Raises `SpoolUnavailable`."""
        for name in names:
            self._remove(f"{self._folder}/{name}")

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove the job's folder. Raises `SpoolUnavailable`."""
        self._remove(self._folder)
        self._redis.zrem(self._spools, self._member)

    def _remove(self, folder: str) -> None:
        self._files.invalidate_cache()  # other processes may have written there
        try:
            self._files.rm(folder, recursive=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._unavailable(error) from error

    def _path(self, name: str, index: int) -> str:
        return f"{self._folder}/{name}/{index:06d}"

    def _unavailable(self, error: OSError) -> SpoolUnavailable:
        return SpoolUnavailable(f"the spool {self._url} cannot be used: {error}")


def remove_orphans(connection: Connection, keys: Keys) -> None:
    """Remove the files of jobs that have no record any more; to be called periodically."""
    due = connection.zrange(
        keys.spools, "-inf", now_ms(), byscore=True, offset=0, num=_ORPHANS_AT_ONCE
    )
    for member in due:
        job, _, url = member.decode().partition(" ")
        left_ms = connection.pttl(keys.job(job).meta)
        # A job that has not ended renews its record, so its files are checked again when the
        # record would expire. Files that cannot be removed now are tried again after all others.
        if left_ms < 0:
            try:
                open_chunk_store(url, connection, keys.job(job), 0).remove_all(())
                logger.info("removed the files of job %s, which has no record", job)
                continue
            except PenstockError as error:
                logger.warning("cannot remove the files of job %s yet: %s", job, error)
        connection.zadd(keys.spools, {member.decode(): now_ms() + max(left_ms, _RETRY_MS)}, xx=True)


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingDependency("fsspec", "spool") from None
    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        what = f"what fsspec needs for {url.partition('://')[0]}://"
        raise MissingDependency(what, hint=str(error)) from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"PENSTOCK_SPOOL_URL: {url}: {error}") from error
    return files, path
