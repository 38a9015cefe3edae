"""``client.messages.batches``: jobs of message batches in the shape of the SDK."""

from collections.abc import Callable, Iterable
from typing import Any

from penstock.batch import Batch
from penstock.batch_reading import BatchReading
from penstock.connection import Connection, translated
from penstock.errors import NotEnded
from penstock.hub import Hub
from penstock.ids import new_id
from penstock.settings import ClientSettings
from penstock.submission import JobOptions, Submission
from penstock.wakeups import WakeUps


class Batches(BatchReading):
    """Batch jobs: create, look at, follow, cancel, and read the results of."""

    def __init__(
        self,
        connection: Connection,
        settings: ClientSettings,
        wakeups: Callable[[], WakeUps],
        hub: Hub,
    ) -> None:
        super().__init__(connection, settings, hub)
        self._wakeups = wakeups

    def create(self, *, requests: Iterable[Any]) -> Batch:
        """Enqueue a job and return it at once.

        ``requests`` is any iterable of ``{"custom_id": …, "params": …}``, read once. Raises
        `InvalidRequest` naming the line and the field, or `RedisUnavailable`; nothing is kept
        and nothing enqueued then.
        """
        id = new_id()
        with translated(self._settings):
            submission = Submission(id, self._redis, self._settings)
            shards = submission.spool(requests)
            submission.record(JobOptions())
            try:
                for shard in shards:
                    self._wakeups().batch(id, shard.number, shard.model)
            except BaseException:
                self._records.discard(id)
                raise
            return self.retrieve(id)

    def cancel(self, id: str, *, who: str = "client") -> Batch:
        """Ask for a job to be canceled; what has succeeded by then is kept. Raises `NotFound`."""
        with translated(self._settings):
            self._records.cancel(id, who)
            return self.retrieve(id)

    def resume(self, id: str, *, who: str = "client") -> Batch:
        """Let a paused job go on, once what it was paused for is put right; nothing happens to one
        that is not paused. Raises `NotFound`."""
        with translated(self._settings):
            self._records.resume(id, who)
            return self.retrieve(id)

    def delete(self, id: str) -> None:
        """Remove an ended job and its results. Raises `NotFound` or `NotEnded`."""
        with translated(self._settings):
            if not self._records.record(id).state.ended:
                raise NotEnded(f"{id} has not ended: cancel it first")
            self._records.discard(id)
