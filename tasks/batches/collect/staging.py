"""What a collector stores before its results count: removed again unless they are committed.

Names carry the epoch of the claim, so that two collectors never mix what they store.
"""

import contextlib
from types import TracebackType
from typing import Final, Self

from penstock.batches.shard import Shard
from penstock.spool.chunks import ChunkMissing
from penstock.spool.stores import open_spool
from tasks.batches.claim import Fenced
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.collect.retry_shard import store_retry_shard

#: Seconds that chunks live from the last one on while they do not count: those of a collector that
#: was killed would fill Redis for as long as the job's.
STAGING_TTL_S: Final = 3_600


class RequestsMissing(Exception):
    """The requests that are to be sent again are not in the spool any more."""


class Staging:
    """The chunks that one claim stores. A context manager."""

    def __init__(self, work: ClaimedShard) -> None:
        [url, shards] = work.job.fields("spool", "shards")
        self.store = open_spool(url, work.redis, work.job.keys, STAGING_TTL_S)
        self.results = f"results-{work.shard.number}-{work.lease.epoch}"
        self.chunks = 0  #: of the results
        self.children: tuple[Shard, ...] = ()  #: the shard of the next round, if there is one
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
        # Of a commit whose answer was lost nobody knows whether it took place: what it may have
        # made count is left to its lifetime.
        if not self._committed or isinstance(error, Fenced):
            with contextlib.suppress(Exception):  # their lifetime does the same, later
                self.store.remove(self._names)

    @property
    def _names(self) -> tuple[str, ...]:
        return self.results, f"requests-{self._spool}", f"ids-{self._spool}"

    def stage_retry_shard(self, parent: Shard, seen: bytes | bytearray) -> None:
        """Make the shard of the next round. Raises `RequestsMissing`."""
        try:
            child = store_retry_shard(
                self.store, parent, seen, number=self._number, spool=self._spool
            )
        except ChunkMissing as error:
            raise RequestsMissing(str(error)) from error
        self.children = (child,)

    def commit(self) -> None:
        """From here on the record may say that the chunks count: they live as long as it does.

        Raises `penstock.spool.chunks.ChunkMissing` if they do not live any more.
        """
        names = [name for child in self.children for name in child.chunk_names]
        names += [self.results] if self.chunks else []
        if not self.store.keep(names, self._ttl_s):
            raise ChunkMissing(f"{self.results}: expired before it was complete")
        self._committed = True

    def remove_requests(self, parent: Shard) -> None:
        """The requests of ``parent`` are not needed any more."""
        with contextlib.suppress(Exception):  # the finish step does the same
            self.store.remove((f"requests-{parent.spool}",))
