"""The chunk store of a job: in Redis, or in files under any URL that fsspec knows.

Files do not expire by themselves. So each job with files has a deadline in a sorted set, and each
process that writes or refreshes chunks moves it on. `remove_orphans` removes the files that are
past theirs and no longer needed: those of a producer that died while it submitted the job, and
those of a job whose record has expired.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any, Final

from penstock.access.redaction import redacted
from penstock.clock import now_ms
from penstock.errors import ConfigurationError, MissingDependency, PenstockError, SpoolUnavailable
from penstock.ids import is_id
from penstock.keys import JobKeys, Keys
from penstock.settings import ClientSettings
from penstock.spool.chunks import ChunkMissing, ChunkStore, RedisChunkStore
from penstock.spool.names import is_chunk_name, permitted_spool
from penstock.store.connection import Connection

logger = logging.getLogger(__name__)

#: Files fetched in one call, concurrently if the file system supports it.
_FETCHED_AT_ONCE: Final = 4

#: Maximum members of the index that one call of `remove_orphans` checks, and maximum jobs whose
#: files it removes.
_CHECKED_AT_ONCE: Final = 1_000
_REMOVED_AT_ONCE: Final = 20

#: Milliseconds until the removal of files that failed is tried again.
_RETRY_MS: Final = 600_000

#: What PTTL returns for a key that does not exist.
_NO_KEY: Final = -2

#: Milliseconds until a spool that this process does not use is checked again.
_OTHER_SPOOL_MS: Final = 86_400_000


def open_chunk_store(url: str, connection: Connection, keys: JobKeys, ttl_s: int) -> ChunkStore:
    """Open the chunk store of the job with these keys.

    ``url`` is one of this process's settings, never one from a record (`permitted_spool`); empty:
    Redis. Chunks expire ``ttl_s`` seconds after they were last written or refreshed. Raises
    `MissingDependency` or `ConfigurationError`.
    """
    if not url:
        return RedisChunkStore(connection, keys, ttl_s)
    return FileChunkStore(url, connection, keys, ttl_s)


class FileChunkStore:
    """Chunks in files: ``<url>/<job>/<name>/<index>``."""

    def __init__(self, url: str, connection: Connection, keys: JobKeys, ttl_s: int) -> None:
        if not is_id(keys.id):
            raise ValueError("the id of a job becomes a folder, and this is not an id")
        self._files, root = _file_system(url)
        self._url = url
        self._root = root.rstrip("/")
        self._folder = f"{self._root}/{keys.id}"
        self._local = "file" in _protocols(self._files)
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
                self._files.makedirs(self._inside(name), exist_ok=True)
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
            self._remove(self._inside(name))

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove the job's folder. Raises `SpoolUnavailable`."""
        self._remove(self._checked(self._folder))
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
        return self._checked(f"{self._inside(name)}/{index:06d}")

    def _inside(self, name: str) -> str:
        """Return the folder of a name, which has one of the fixed forms."""
        if not is_chunk_name(name):
            raise ValueError(f"not the name of chunks: {name[:40]!r}")
        return self._checked(f"{self._folder}/{name}")

    def _checked(self, path: str) -> str:
        """Return ``path``, or raise `SpoolUnavailable` if a link leads from it to another place.

        Only the root of the spool may be a link: another user of the machine may be able to write
        to a folder below it.
        """
        if self._local:
            inside = path.removeprefix(self._root)
            if os.path.realpath(path) != os.path.realpath(self._root) + inside:
                raise SpoolUnavailable(f"the spool {self._url} has a link at {inside}; remove it")
        return path

    def _unavailable(self, error: OSError) -> SpoolUnavailable:
        return SpoolUnavailable(redacted(f"the spool {self._url} cannot be used: {error}"))


def remove_orphans(connection: Connection, settings: ClientSettings) -> None:
    """Remove the files of jobs that have no record any more; to be called periodically.

    Only files below a spool of this process's settings: every program that enqueues can write to
    the index.
    """
    keys, removed = settings.keys, 0
    due = connection.zrange(
        keys.spools, "-inf", now_ms(), byscore=True, offset=0, num=_CHECKED_AT_ONCE
    )
    for member in due:
        job, _, address = member.decode(errors="replace").partition(" ")
        if not is_id(job) or not address:
            connection.zrem(keys.spools, member)
            logger.warning("removed what is no job from the index of spools: %.80r", member)
            continue
        left_ms = connection.pttl(keys.job(job).meta)
        if left_ms != _NO_KEY:
            # A job that has not ended renews its record, so its files are checked again when the
            # record would expire.
            _postpone(connection, keys, member, max(left_ms, _RETRY_MS))
            continue
        if removed == _REMOVED_AT_ONCE:
            return
        try:
            url = permitted_spool(address, settings)
        except ConfigurationError:
            # Its files, if there are any, are left to a process with that spool.
            _postpone(connection, keys, member, _OTHER_SPOOL_MS)
            continue
        removed += 1
        try:
            open_chunk_store(url, connection, keys.job(job), 0).remove_all(())
            connection.zrem(keys.spools, member)
            logger.info("removed the files of job %s, which has no record", job)
        except PenstockError as error:  # tried again after all others
            _postpone(connection, keys, member, _RETRY_MS)
            logger.warning("cannot remove the files of job %s yet: %s", job, error)


def _postpone(connection: Connection, keys: Keys, member: bytes, wait_ms: int) -> None:
    connection.zadd(keys.spools, {member: now_ms() + wait_ms}, xx=True)


def _protocols(files: Any) -> tuple[str, ...]:
    names = files.protocol
    return (names,) if isinstance(names, str) else tuple(names)


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
