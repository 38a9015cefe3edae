"""``client.messages.batches``: jobs of message batches in the shape of the SDK."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from penstock.connection import Connection, translated
from penstock.errors import NotEnded, RedisUnavailable
from penstock.events import Event
from penstock.hub import Hub
from penstock.ids import new_id
from penstock.job_options import JobOptions
from penstock.jobs import Job, JobRecords
from penstock.reader import follow
from penstock.records import checked_id
from penstock.settings import ClientSettings
from penstock.shards import Counts, Shard
from penstock.states import State
from penstock.submission import Submission
from penstock.views import View
from penstock.wakeups import WakeUps


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch job. The first six fields are those of the API's message batch."""

    id: str
    processing_status: str  #: in_progress · canceling · ended
    request_counts: Counts
    created_at: datetime
    ended_at: datetime | None
    cancel_initiated: bool
    state: State  #: queued · running · done · failed · canceled
    model: str  #: of the first request
    shards: tuple[Shard, ...]
    usage: dict[str, int]  #: tokens of all succeeded requests, once the job has ended
    cost: dict[str, Any] | None  #: currency, batch price and live price, where prices are known
    error: dict[str, Any] | None  #: why the job failed, if it did

    @classmethod
    def of(cls, job: Job) -> Self:
        """The public view of a job's record."""
        record = job.record
        running = "canceling" if record.cancel else "in_progress"
        ended = record.fields.get("ended_ms")
        return cls(
            id=job.id,
            processing_status="ended" if job.state.ended else running,
            request_counts=job.counts,
            created_at=_time(record.fields["created_ms"]),
            ended_at=_time(ended) if ended else None,
            cancel_initiated=bool(record.cancel),
            state=job.state,
            model=record.fields.get("model", ""),
            shards=job.shards,
            usage=record.json("usage") or {},
            cost=record.json("cost"),
            error=record.json("error"),
        )


def _time(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


class Batches:
    """Batch jobs: create, look at, follow, cancel, and read the results of."""

    def __init__(
        self,
        connection: Connection,
        settings: ClientSettings,
        wakeups: Callable[[], WakeUps],
        hub: Hub,
    ) -> None:
        self._redis = connection
        self._hub = hub
        self._settings = settings
        self._records = JobRecords(connection, settings)
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
        options = JobOptions(
            betas=betas,
            headers=extra_headers or {},
            max_cost_usd=max_cost_usd,
            canary=canary,
            shard_requests=shard_requests,
        )
        id = new_id()
        with translated(self._settings):
            submission = Submission(id, self._redis, self._settings, options)
            submission.spool(requests)
            submission.enqueue(lambda shard: self._wakeups().batch(id, shard.number, shard.model))
        try:
            return self.retrieve(id)
        except RedisUnavailable as error:
            raise RedisUnavailable(f"job {id} is enqueued, but cannot be read: {error}") from error

    def retrieve(self, id: str) -> Batch:
        """The job as it stands. Raises `NotFound`."""
        with translated(self._settings):
            return Batch.of(self._records.read(id))

    def list(self, *, limit: int = 20) -> list[Batch]:
        """The newest jobs, newest first."""
        with translated(self._settings):
            return [self.retrieve(id) for id in self._records.ids()[:limit]]

    def cancel(self, id: str, *, who: str = "client") -> Batch:
        """Ask for a job to be canceled; what has succeeded by then is kept. Raises `NotFound`."""
        with translated(self._settings):
            self._records.cancel(id, who)
            return self.retrieve(id)

    def delete(self, id: str) -> None:
        """Remove an ended job and its results. Raises `NotFound` or `NotEnded`."""
        with translated(self._settings):
            if not self._records.read(id).state.ended:
                raise NotEnded(f"{id} has not ended: cancel it first")
            self._records.discard(id)

    def events(self, id: str, *, timeout: float | None = None) -> Iterator[Event]:
        """Every event of the job, live, up to the last one. Raises `NotFound`."""
        keys = self._settings.keys.job(checked_id(id))
        with translated(self._settings):
            yield from follow(self._redis, self._hub, keys, timeout=timeout)

    def results(self, id: str) -> Iterator[View]:
        """The result lines of an ended job, with attribute access as the SDK's objects have it:
        ``line.custom_id``, ``line.result.type``. Raises `NotFound` or `NotEnded`."""
        for line in self.result_lines(id):
            yield View(orjson.loads(line))

    def result_lines(self, id: str) -> Iterator[bytes]:
        """The same lines as the API's JSONL, unparsed."""
        with translated(self._settings):
            job = self._records.read(id)
            if not job.state.ended:
                raise NotEnded(f"{id} has not ended: its results come all at once, at the end")
            yield from ()  # TODO
