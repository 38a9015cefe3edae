"""``client.messages.batches``: batch jobs, in the shape of the SDK's Message Batches."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import redis

from penstock import events
from penstock.batches.estimates import BatchDuration, Estimate, estimate_remaining
from penstock.batches.failed_requests import release_retry, reserve_retry
from penstock.batches.jobs import JobRecords
from penstock.batches.options import SubmissionOptions
from penstock.batches.pages import BatchPage, PageRange, check_page
from penstock.batches.results import CollectionOrder, LineOffset, checked_order
from penstock.batches.submission import Submission
from penstock.batches.unreadable import parse_line
from penstock.batches.view import Batch
from penstock.body.values import is_omitted
from penstock.clock import now_ms
from penstock.errors import InvalidRequest, NotEnded, RedisUnavailable
from penstock.events import Cursor, Event
from penstock.follow.multiplexer import Multiplexer
from penstock.follow.reader import follow
from penstock.follow.waiting import read_waiting
from penstock.ids import new_id
from penstock.keys import JobKeys
from penstock.queue.wakeups import WakeUps
from penstock.settings import ClientSettings
from penstock.store.connection import Connection, redis_errors_translated
from penstock.store.record import checked_id
from penstock.validation import is_number, merged_headers
from penstock.views import View


class Batches:
    """Creates, lists, follows, cancels and deletes batch jobs, and reads their results.

    The methods are those of the SDK's ``client.messages.batches`` (Message Batches API), plus
    `wait`, `events`, `estimate`, `resume` and `result_lines`. A job may have any number of
    requests: the workers divide it into batches that the API accepts.

        job = client.messages.batches.create(requests=requests)
        client.messages.batches.wait(job.id)
        for line in client.messages.batches.results(job.id):
            print(line.custom_id, line.result.type)

    Every method raises `RedisUnavailable` if Redis cannot be reached. Those that take an ``id``
    raise `NotFound` if no job has it or the job's record has expired.
    """

    def __init__(
        self,
        connection: Connection,
        settings: ClientSettings,
        wakeups: Callable[[], WakeUps],
        multiplexer: Multiplexer,
    ) -> None:
        self._redis = connection
        self._settings = settings
        self._wakeups = wakeups
        self._multiplexer = multiplexer
        self._records = JobRecords(connection, settings)

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
        """Submit a job and return it as soon as it is enqueued.

            job = client.messages.batches.create(
                requests=({"custom_id": f"row-{n}", "params": params(n)} for n in range(1_000_000)),
                max_cost_usd=50,
            )

        - ``requests``: an iterable of ``{"custom_id": …, "params": …}``, as the API's Message
          Batches take them (``params``: the body of a Messages request). It is read once and never
          held as a whole. custom_ids must be unique within the job. A request may have ``betas`` of
          its own.
        - ``betas``, ``extra_headers`` (``anthropic-*`` only): sent with every call to the API.
        - ``max_cost_usd``: the job is paused before it can cost more, in US dollars.
        - ``canary``: number of requests, from the first, that are sent as live calls before all
          others; 0 to 100.
        - ``shard_requests``: maximum requests of a batch, in place of the setting; 1 to 100,000.

        Raises `InvalidRequest`, which names the line and the field, for the first request that
        the API would certainly reject, `SpoolUnavailable`, or `RedisUnavailable`. There is no job
        then and nothing stays stored, unless the message says otherwise.
        """
        options = SubmissionOptions(
            betas=() if is_omitted(betas) else betas,
            headers=merged_headers(extra_headers),
            max_cost_usd=max_cost_usd,
            canary=canary,
            shard_requests=shard_requests,
        )
        return self._submit(new_id(), requests, options)

    def _submit(self, id: str, requests: Iterable[Any], options: SubmissionOptions) -> Batch:
        with redis_errors_translated(self._settings):
            submission = Submission(id, self._redis, self._settings, options)
            submission.spool(requests)
            submission.enqueue(lambda shard: self._wakeups().batch(id, shard.number, shard.model))
        try:
            return self.retrieve(id)
        except RedisUnavailable as error:
            raise RedisUnavailable(f"job {id} is enqueued, but cannot be read: {error}") from error

    def retrieve(self, id: str) -> Batch:
        """Read a job.

            job = client.messages.batches.retrieve(id)
            print(job.processing_status, job.progress.collected, job.progress.shards)

        Returns the fields of the API's message batch and more: see `Batch`.
        """
        with redis_errors_translated(self._settings):
            return Batch.of(self._records.read(id))

    def list(
        self, *, limit: int = 20, after_id: str | None = None, before_id: str | None = None
    ) -> BatchPage:
        """List the jobs that have a record, newest first, as pages.

            for job in client.messages.batches.list():
                print(job.id, job.state)

        ``limit``: jobs on a page, 1 to 1,000. ``after_id``: only jobs older than this one;
        ``before_id``: only those right before it, which are newer. Iterating over a page
        continues with the next pages; its ``data`` is that page alone.

        Raises `InvalidRequest`, or `NotFound` for an id that is malformed.
        """
        check_page(limit, after_id, before_id)
        with redis_errors_translated(self._settings):
            page = PageRange.of(self._records.ids(), limit, after_id, before_id)
            data = [Batch.of(job) for job in self._records.read_all(page.ids)]

        def following() -> BatchPage:
            if before_id is not None:
                return self.list(limit=limit, before_id=page.ids[0])
            return self.list(limit=limit, after_id=page.ids[-1])

        return BatchPage(data, has_more=page.has_more, following=following)

    def cancel(self, id: str, *, who: str = "client") -> Batch:
        """Request that a job be canceled, and return it.

            client.messages.batches.cancel(job.id, who="nightly import")

        The workers cancel its batches at the API. Requests that have ended by then keep their
        results; the others end as ``canceled``. Nothing happens to a job that has ended. ``who``
        is stored in the job's last event.
        """
        with redis_errors_translated(self._settings):
            self._records.cancel(id, who)
            return self.retrieve(id)

    def resume(self, id: str, *, who: str = "client", max_cost_usd: float | None = None) -> Batch:
        """Resume a paused job after its cause has been remedied, and return it.

            job = client.messages.batches.retrieve(id)
            if job.paused and job.paused.type == "cost_limit":
                client.messages.batches.resume(id, max_cost_usd=100)

        ``job.paused`` says why a job is paused. ``max_cost_usd``: the new cost cap of a job that
        was submitted with one, in US dollars. ``who`` is stored in the event
        ``penstock.resumed``. Nothing happens to a job that is not paused, except that its cap
        changes. Raises `InvalidRequest` for a cap that the job cannot have.
        """
        cap = None
        if max_cost_usd is not None:
            if not (is_number(max_cost_usd) and 0 < max_cost_usd < math.inf):
                raise InvalidRequest("must be a number of dollars above 0", field="max_cost_usd")
            cap = int(max_cost_usd * 1_000_000)
        with redis_errors_translated(self._settings):
            self._records.resume(id, who, cap)
            return self.retrieve(id)

    def retry_failed(self, id: str, *, max_cost_usd: float | None = None) -> Batch:
        """Send the requests of an ended job that did not succeed again, as a new job; returns it.

            job = client.messages.batches.wait(job.id)
            if job.unsuccessful:
                job = client.messages.batches.retry_failed(job.id)

        The new job has the errored, expired and canceled requests, under the same custom_ids, and
        is paid for like any other; its ``retry_of`` is ``id``. The results of the first job stay
        as they are. ``max_cost_usd``: the cost cap of the new job.

        Raises `NotEnded`, or `InvalidRequest` if no failed request is stored, or if they were sent
        again before: the new job's own failures can be retried in the same way.
        """
        options = SubmissionOptions(max_cost_usd=max_cost_usd, retry_of=id)
        retry, keys = new_id(), self._settings.keys
        with redis_errors_translated(self._settings):
            job = self._records.read(id)
            if not job.state.ended:
                raise NotEnded(f"{id} has not ended")
            requests = self._records.failed_requests(job)
            if not requests:
                raise InvalidRequest(f"no failed request of {id} is stored")
            options = replace(options, headers=job.record.json("headers") or {})
            reserve_retry(self._redis, keys, id, retry)
            try:
                return self._submit(retry, requests, options)
            except BaseException:
                with suppress(redis.RedisError):  # it is given up after an hour
                    release_retry(self._redis, keys, id, retry)
                raise

    def delete(self, id: str) -> None:
        """Delete an ended job with its results. Its batches at the API are not deleted.

            client.messages.batches.delete(job.id)

        Raises `NotEnded` for a job that has not ended: cancel it first.
        """
        with redis_errors_translated(self._settings):
            if not self._records.record(id).state.ended:
                raise NotEnded(f"{id} has not ended: cancel it first")
            self._records.discard(id)

    def events(
        self, id: str, *, after: Cursor | str | None = None, timeout: float | None = None
    ) -> Generator[Event, None, None]:
        """Yield every event of a job, live, up to its last one, ``penstock.end``.

            for event in client.messages.batches.events(job.id):
                print(event.cursor, event.type, event.data)

        ``after``: cursor of the last event that was taken; only later ones are yielded.
        ``timeout``: maximum seconds between two events. Raises `TimeoutError` after it, or
        `ValueError` for a malformed cursor.
        """
        keys, cursor = self._settings.keys.job(checked_id(id)), Cursor.of(after)
        return self._events(keys, cursor, timeout)

    def _events(
        self, keys: JobKeys, after: Cursor | None, timeout: float | None, *, answered: bool = False
    ) -> Generator[Event, None, None]:
        with redis_errors_translated(self._settings):
            yield from follow(
                self._redis,
                self._multiplexer,
                keys,
                after=after,
                timeout=timeout,
                answered=answered,
            )

    def wait(
        self,
        id: str,
        on_progress: Callable[[Batch], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Batch:
        """Wait until a job has ended, and return it.

            job = client.messages.batches.wait(job.id, lambda job: print(job.progress))

        ``on_progress`` is called with the job at once and after each of its events. A paused job
        is waited for as well: ``job.paused`` says why. ``timeout``: maximum seconds to wait;
        raises `TimeoutError` after them, and the job continues.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        report = on_progress or (lambda _: None)
        keys = self._settings.keys.job(checked_id(id))
        with redis_errors_translated(self._settings):
            job = self._records.read(id)
            cursor = Cursor(0, job.record.n)
            report(batch := Batch.of(job))
            while not job.state.ended:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                for event in self._events(keys, cursor, left, answered=True):
                    cursor = event.cursor  # the record may be ahead of it
                    job = read_waiting(partial(self._records.updated, job, event), left)
                    report(batch := Batch.of(job))
                    if deadline is not None or job.state.ended:
                        break  # with a deadline, the time that is left has changed
        return batch

    def estimate(self, batch: Batch) -> Estimate | None:
        """Estimate how much longer a job takes, from how long the last batches took.

            if estimate := client.messages.batches.estimate(job):
                print(f"about {estimate.median_s:.0f} s, on a bad day {estimate.high_s:.0f} s")

        Returns None if the job is paused, waits for its canary or has ended, or if no batch of
        this deployment has ended yet.
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
        """Yield the results of a job, one for each request, with the SDK's attribute access.

            for line in client.messages.batches.results(job.id):
                if line.result.type == "succeeded":
                    print(line.custom_id, line.result.message.content[0].text)

        A line is the API's, a ``MessageBatchIndividualResponse``: ``custom_id`` and ``result``,
        whose ``type`` is ``succeeded``, ``errored``, ``canceled`` or ``expired``. Arguments and
        errors are those of `result_lines`.
        """
        lines = self.result_lines(id, order=order, after=after, wait=wait, timeout=timeout)
        for line in lines:
            yield View(parse_line(line))

    def result_lines(
        self,
        id: str,
        *,
        order: str = "completed",
        after: int = 0,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Iterator[bytes]:
        """Yield the results of a job as lines of the API's JSONL, unparsed and without line end.

            with open("results.jsonl", "ab") as file:
                for line in client.messages.batches.result_lines(job.id, after=lines_in_file):
                    file.write(line + b"\\n")

        - ``order``: ``completed``, in which the results were collected, or ``submitted``.
        - ``after``: number of lines to skip, those that were taken before; the order never changes.
        - ``wait``: read a job that is running, each shard's results as soon as they are collected,
          until the job ends.
        - ``timeout``: maximum seconds between two events of a running job.

        Memory use stays small for any number of lines.

        Raises `NotEnded` for a running job without ``wait``, `NotFound` also if results have
        expired, `InvalidRequest`, or `TimeoutError`.
        """
        checked_order(order, wait=wait)
        offset = LineOffset(after)
        with redis_errors_translated(self._settings):
            record = self._records.record(id)
            if not (record.state.ended or wait):
                raise NotEnded(
                    f"{id} has not ended; use wait=True to read results as they are collected "
                    f"(on the command line: penstock batch results {id} --wait)"
                )
            if order == "submitted":
                shards = self._records.read(id).shards
                yield from self._records.results(record).submitted(shards, after=after)
            else:
                yield from self._as_collected(id, offset, timeout)

    def _as_collected(self, id: str, offset: LineOffset, timeout: float | None) -> Iterator[bytes]:
        results = self._records.results(self._records.record(id))
        collection = CollectionOrder()
        for event in self.events(id, timeout=timeout):
            number = collection.shard_of(event)
            if number is not None:
                shard = read_waiting(partial(self._records.shard, id, number), timeout)
                yield from results.lines(shard, after=offset.skip(shard))
            if event.type == events.END:
                break
        job = read_waiting(partial(self._records.read, id), timeout)
        for shard in collection.without_event(job.shards):
            yield from results.lines(shard, after=offset.skip(shard))
