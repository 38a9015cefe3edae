"""``client.messages.batches``: jobs of message batches in the shape of the SDK."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from penstock.batches.options import SubmissionOptions
from penstock.batches.reading import BatchReading
from penstock.batches.submission import Submission
from penstock.batches.view import Batch
from penstock.errors import InvalidRequest, NotEnded, RedisUnavailable
from penstock.follow.multiplexer import Multiplexer
from penstock.ids import new_id
from penstock.queue.wakeups import WakeUps
from penstock.settings import ClientSettings
from penstock.store.connection import Connection, redis_errors_translated


class Batches(BatchReading):
    """Batch jobs: create, look at, follow, cancel, and read the results of."""

    def __init__(
        self,
        connection: Connection,
        settings: ClientSettings,
        wakeups: Callable[[], WakeUps],
        multiplexer: Multiplexer,
    ) -> None:
        super().__init__(connection, settings, multiplexer)
        self._wakeups = wakeups

    def create(
        self,
        *,
        requests: Iterable[Any],
        betas: Sequence[str] = (),
        extra_headers: Mapping[str, str] | None = None,
        max_cost_usd: float | None = None,
        canary: int = 0,
        shard_requests: int | None = None,
    ) -> Batch:
        """Enqueue a job and return it at once.

        ``requests`` is any iterable of ``{"custom_id": …, "params": …}``, read once; custom_ids are
        unique over the whole job, which may be larger than a batch of the API. A request may also
        have ``betas`` of its own. ``betas`` and ``extra_headers`` (``anthropic-*`` only) go with
        every call to the API. ``max_cost_usd``: the job is paused before it can cost more.
        ``canary``: so many requests, the first ones, are sent live before anything else is.
        ``shard_requests``: requests in one batch at the API, in place of the setting.

        Raises `InvalidRequest` naming the line and the field, or `RedisUnavailable`; nothing is
        kept and nothing enqueued then, unless the message says otherwise.
        """
        options = SubmissionOptions(
            betas=betas,
            headers=extra_headers or {},
            max_cost_usd=max_cost_usd,
            canary=canary,
            shard_requests=shard_requests,
        )
        id = new_id()
        with redis_errors_translated(self._settings):
            submission = Submission(id, self._redis, self._settings, options)
            submission.spool(requests)
            submission.enqueue(lambda shard: self._wakeups().batch(id, shard.number, shard.model))
        try:
            return self.retrieve(id)
        except RedisUnavailable as error:
            raise RedisUnavailable(f"job {id} is enqueued, but cannot be read: {error}") from error

    def cancel(self, id: str, *, who: str = "client") -> Batch:
        """Ask for a job to be canceled; what has succeeded by then is kept. Raises `NotFound`."""
        with redis_errors_translated(self._settings):
            self._records.cancel(id, who)
            return self.retrieve(id)

    def resume(self, id: str, *, who: str = "client", max_cost_usd: float | None = None) -> Batch:
        """Let a paused job go on, once what it was paused for is put right; nothing happens to one
        that is not paused.

        ``max_cost_usd``: a new money cap, for a job that has reached its own. Raises `NotFound` or
        `InvalidRequest`.
        """
        cap = None
        if max_cost_usd is not None:
            if not 0 < max_cost_usd < math.inf:
                raise InvalidRequest("must be a number of dollars above 0", field="max_cost_usd")
            cap = int(max_cost_usd * 1_000_000)
        with redis_errors_translated(self._settings):
            self._records.resume(id, who, cap)
            return self.retrieve(id)

    def delete(self, id: str) -> None:
        """Remove an ended job and its results. Raises `NotFound` or `NotEnded`."""
        with redis_errors_translated(self._settings):
            if not self._records.record(id).state.ended:
                raise NotEnded(f"{id} has not ended: cancel it first")
            self._records.discard(id)
