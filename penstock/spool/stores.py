"""Where the chunks of a job lie: in Redis, or under any URL that fsspec knows.

Files do not expire by themselves. So each job that has some stands in a sorted set with a deadline,
which whoever writes or keeps chunks moves on; `remove_orphans` removes what nobody needs any more:
the files of a producer that died half-way, and those of a job whose record has expired.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Final

from penstock.clock import now_ms
from penstock.errors import ConfigurationError, MissingDependency, PenstockError, SpoolUnavailable
from penstock.keys import JobKeys, Keys
from penstock.spool.chunks import ChunkMissing, ChunkStore, RedisChunks
from penstock.store.connection import Connection

logger = logging.getLogger(__name__)

#: Files fetched at once, where the file system can do that.
_AHEAD: Final = 4

#: Orphans looked at in one go.
_PAGE: Final = 20

#: Milliseconds until files that could not be removed are tried again.
_LATER_MS: Final = 600_000


def open_spool(url: str, connection: Connection, keys: JobKeys, ttl_s: int) -> ChunkStore:
    """The chunk store of the job with these keys. ``url`` stands in the job's record; empty:
    Redis. Chunks live ``ttl_s`` seconds from when they were last written or kept. Raises
    `MissingDependency` or `ConfigurationError`."""
    if not url:
        return RedisChunks(connection, keys, ttl_s)
    return FileChunks(url, connection, keys, ttl_s)


class FileChunks:
    """Chunks as files: ``<url>/<job>/<name>/<index>``."""

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
            self.keep((), self._ttl_s)  # before there is anything that could be left behind
        try:
            if name not in self._folders:
                self._files.makedirs(f"{self._folder}/{name}", exist_ok=True)
                self._folders.add(name)
            self._files.pipe_file(self._path(name, index), chunk)
        except OSError as error:
            raise self._unavailable(error) from error

    def read(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        """The chunks, fetched a few at a time. Raises `ChunkMissing` or `SpoolUnavailable`."""
        for start in range(first, count, _AHEAD):
            paths = [self._path(name, at) for at in range(start, min(start + _AHEAD, count))]
            found = self._files.cat_ranges(paths, None, None, on_error="return")
            for index, chunk in enumerate(found, start=start):
                if isinstance(chunk, FileNotFoundError):
                    raise ChunkMissing(f"{name}: chunk {index} of {count} is missing") from chunk
                if isinstance(chunk, OSError):
                    raise self._unavailable(chunk) from chunk
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk

    def keep(self, names: Iterable[str], seconds: int) -> bool:
        """Move the deadline of the whole job; files are not looked at."""
        self._redis.zadd(self._spools, {self._member: now_ms() + seconds * 1000})
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Remove their folders."""
        for name in names:
            self._remove(f"{self._folder}/{name}")

    def clear(self, names: Iterable[str]) -> None:
        """Remove the job's folder."""
        self._remove(self._folder)
        self._redis.zrem(self._spools, self._member)

    def _remove(self, folder: str) -> None:
        self._files.invalidate_cache()  # others have written there since
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
    """Remove the files of jobs that have no record (any more); to be called now and then."""
    due = connection.zrange(keys.spools, "-inf", now_ms(), byscore=True, offset=0, num=_PAGE)
    for member in due:
        job, _, url = member.decode().partition(" ")
        left_ms = connection.pttl(keys.job(job).meta)
        # A job that goes on renews its record, so its files are looked at again when that has run
        # out. What cannot be removed now is tried again later, behind all others.
        if left_ms < 0:
            try:
                open_spool(url, connection, keys.job(job), 0).clear(())
                logger.info("job %s has no record: its files are removed", job)
                continue
            except PenstockError as error:
                logger.warning("files of job %s are left behind: %s", job, error)
        connection.zadd(keys.spools, {member: now_ms() + max(left_ms, _LATER_MS)}, xx=True)


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
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
