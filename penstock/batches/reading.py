"""The reading half of ``client.messages.batches``: jobs, their events and their results."""

import time
from collections.abc import Callable, Generator, Iterator

import orjson

from penstock import events
from penstock.batches.estimates import BatchDuration, Estimate, estimate_remaining
from penstock.batches.jobs import JobRecords
from penstock.batches.results import CollectionOrder, LineOffset, checked_order
from penstock.batches.view import Batch, BatchPage, PageRange
from penstock.clock import now_ms
from penstock.errors import InvalidRequest, NotEnded
from penstock.events import Cursor, Event
from penstock.follow.multiplexer import Multiplexer
from penstock.follow.reader import follow
from penstock.settings import ClientSettings
from penstock.store.connection import Connection, redis_errors_translated
from penstock.store.record import checked_id
from penstock.views import View

#: Most jobs of one page, as at the API.
MAX_PAGE = 1_000


class BatchReading:
    """Everything about batch jobs that changes nothing."""

    def __init__(
        self, connection: Connection, settings: ClientSettings, multiplexer: Multiplexer
    ) -> None:
        self._redis = connection
        self._multiplexer = multiplexer
        self._settings = settings
        self._records = JobRecords(connection, settings)

    def retrieve(self, id: str) -> Batch:
        """The job as it stands. Raises `NotFound`."""
        with redis_errors_translated(self._settings):
            return Batch.of(self._records.read(id))

    def list(
        self, *, limit: int = 20, after_id: str | None = None, before_id: str | None = None
    ) -> BatchPage:
        """The jobs that still have a record, newest first, ``limit`` to a page.

        ``after_id``: those behind this one, which are older; ``before_id``: those right before it.
        Iterating goes on with the next pages; ``.data`` is this page alone. Raises
        `InvalidRequest` or, for an id that is none, `NotFound`.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"must be 1 to {MAX_PAGE}", field="limit")
        if after_id is not None and before_id is not None:
            raise InvalidRequest("cannot be given together with after_id", field="before_id")
        for each in (after_id, before_id):
            if each is not None:
                checked_id(each)
        with redis_errors_translated(self._settings):
            span = PageRange.of(self._records.ids(), limit, after_id, before_id)
            data = [Batch.of(job) for job in self._records.read_all(span.ids)]

        def following() -> BatchPage:
            if before_id is not None:
                return self.list(limit=limit, before_id=span.ids[0])
            return self.list(limit=limit, after_id=span.ids[-1])

        return BatchPage(data, has_more=span.has_more, following=following)

    def events(
        self, id: str, *, after: Cursor | str | None = None, timeout: float | None = None
    ) -> Generator[Event, None, None]:
        """Every event of the job, live, up to the last one.

        ``after``: the cursor of the last event that was taken. ``timeout`` bounds the seconds
        between two events; then `TimeoutError` is raised. Raises `NotFound`.
        """
        keys, cursor = self._settings.keys.job(checked_id(id)), Cursor.of(after)
        with redis_errors_translated(self._settings):
            yield from follow(self._redis, self._multiplexer, keys, after=cursor, timeout=timeout)

    def wait(
        self,
        id: str,
        on_progress: Callable[[Batch], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Batch:
        """Wait until the job has ended; returns it as it stands then.

        ``on_progress`` is called with the job at once and whenever anything has happened to it.
        A paused job is waited for as well: ``job.paused`` tells why. Raises `TimeoutError` after
        ``timeout`` seconds (the job goes on), or `NotFound`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        tell = on_progress or (lambda _: None)
        with redis_errors_translated(self._settings):
            job = self._records.read(id)
            cursor = Cursor(0, job.record.n)
            tell(batch := Batch.of(job))
            while not job.state.ended:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                for event in self.events(id, after=cursor, timeout=left):
                    cursor = event.cursor  # the record may be ahead of it
                    job = self._records.updated(job, event)
                    tell(batch := Batch.of(job))
                    if deadline is not None or job.state.ended:
                        break  # with a deadline the time that is left has changed
        return batch

    def estimate(self, batch: Batch) -> Estimate | None:
        """How much longer a job will take, by what the deployment's last batches took.

        None where nothing can be said: none has ended yet, or the job is paused or has ended.
        """
        if batch.state.ended or batch.paused or batch.waiting_for_canary:
            return None
        with redis_errors_translated(self._settings):
            history = [BatchDuration.of(each) for each in self._records.history()]
        return estimate_remaining(batch.shards, history, now_ms())

    def results(
        self,
        id: str,
        *,
        order: str = "completed",
        after: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Iterator[View]:
        """The result lines of a job, with attribute access as the SDK's objects have it:
        ``line.custom_id``, ``line.result.type``. Arguments and errors as of `result_lines`."""
        lines = self.result_lines(id, order=order, after=after, wait=wait, timeout=timeout)
        for line in lines:
            yield View(orjson.loads(line))

    def result_lines(
        self,
        id: str,
        *,
        order: str = "completed",
        after: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Iterator[bytes]:
        """The same lines as the API's JSONL, unparsed.

        ``order``: ``completed``, as the API gave them, shard by shard; or ``submitted``.
        ``after``: so many lines were taken before; what comes behind them is the same at any time.
        ``wait``: do not wait for the end of a running job, but give out each shard's results as
        soon as they are collected, up to the last one; ``timeout`` bounds the seconds between two
        events of the job. Takes the same little memory for any number of lines.

        Raises `NotEnded` for a running job without ``wait``, `NotFound` where there is no such job
        or its results have expired, `InvalidRequest`, or `TimeoutError`.
        """
        checked_order(order, wait=wait)
        offset = LineOffset(after)
        with redis_errors_translated(self._settings):
            record = self._records.record(id)
            if not (record.state.ended or wait):
                raise NotEnded(
                    f"{id} has not ended; results that are there already: wait=True "
                    f"(on the command line: penstock batch results {id} --wait)"
                )
            if order == "submitted":
                shards = self._records.read(id).shards
                yield from self._records.results(record).submitted(shards, after=after)
            else:
                yield from self._as_collected(id, offset, timeout)

    def _as_collected(self, id: str, offset: LineOffset, timeout: float | None) -> Iterator[bytes]:
        results = self._records.results(self._records.record(id))
        collection_order = CollectionOrder()
        for event in self.events(id, timeout=timeout):
            number = collection_order.shard_of(event)
            if number is not None:
                shard = self._records.shard(id, number)
                yield from results.lines(shard, after=offset.skip(shard))
            if event.type == events.END:
                break
        for shard in collection_order.without_event(self._records.read(id).shards):
            yield from results.lines(shard, after=offset.skip(shard))
