"""Staging: chunks that a collect step stores before the shard's record names them.

Chunks that are staged but not committed are removed. Their names contain the epoch of the claim, so
two workers that collect the same shard never mix what they store.
"""

import contextlib
from types import TracebackType
from typing import Self

from penstock.batches.shard import Shard
from penstock.spool.chunks import ChunkMissing
from tasks.batches.claim import Fenced
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.collect.retry_shard import store_failed_requests, store_retry_shard


class RequestsMissing(Exception):
    """The requests to retry are not in the spool any more."""


class Staging:
    """The chunks that one claim stages. Use it in a ``with`` statement."""

    def __init__(self, work: ClaimedShard) -> None:
        [url, shards] = work.job.fields("spool", "shards")
        self.store = work.job.staging_store(url)
        self.results = f"results-{work.shard.number}-{work.lease.epoch}"
        self.chunks = 0  #: of the results
        self.children: tuple[Shard, ...] = ()  #: the retry shard, if there is one
        self.failed = f"failed-{work.shard.number}-{work.lease.epoch}"
        self.failed_chunks = 0  #: of the requests that have failed
        self._number = work.shard.number + int(shards)
        self._spool = f"{self._number}-{work.lease.epoch}"
        self._ttl_s = work.settings.batch_ttl_s
        self._committed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # If the reply to the write of the record was lost, the record may name the chunks: then
        # they are kept, and expire if it does not. A fenced write certainly did not take place.
        if not self._committed or isinstance(error, Fenced):
            with contextlib.suppress(Exception):  # chunks that are not removed here expire
                self.store.remove(self._names)

    @property
    def _names(self) -> tuple[str, ...]:
        return self.results, self.failed, f"requests-{self._spool}", f"ids-{self._spool}"

    def stage_retry_shard(self, parent: Shard, seen: bytes | bytearray) -> None:
        """Stage the requests that are retried. Raises `RequestsMissing`."""
        try:
            child = store_retry_shard(
                self.store, parent, seen, number=self._number, spool=self._spool
            )
        except ChunkMissing as error:
            raise RequestsMissing(str(error)) from error
        self.children = (child,)

    def stage_failed_requests(self, parent: Shard, seen: bytes | bytearray) -> None:
        """Stage the requests that have failed, if they are still in the spool."""
        with contextlib.suppress(ChunkMissing):  # their errors are results all the same
            self.failed_chunks = store_failed_requests(self.store, parent, seen, name=self.failed)

    def commit(self) -> None:
        """Give the chunks the lifetime of the job, before the record names them.

        Raises `penstock.spool.chunks.ChunkMissing` if one of them has expired.
        """
        names = [name for child in self.children for name in child.chunk_names]
        names += [self.results] if self.chunks else []
        names += [self.failed] if self.failed_chunks else []
        if not self.store.refresh_ttl(names, self._ttl_s):
            raise ChunkMissing(f"{self.results}: expired before it was complete")
        self._committed = True

    def remove_requests(self, parent: Shard) -> None:
        """Remove the requests of ``parent``, once the record has its results."""
        with contextlib.suppress(Exception):  # the finish step removes them as well
            self.store.remove((parent.request_chunk_name,))
