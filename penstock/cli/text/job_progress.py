"""Watching a batch job: a live table on a terminal, one line per change elsewhere."""

import sys
import time
from contextlib import AbstractContextManager, suppress
from typing import Protocol, Self

import click
from rich.console import Console

from penstock.batches.client import Batches
from penstock.batches.estimates import Estimate
from penstock.batches.shard import ShardState
from penstock.batches.view import Batch
from penstock.cli.text.job_fields import notice_text, remaining_time
from penstock.cli.text.output import error_counts, outcome_counts, quantity
from penstock.cli.text.remedies import alert_remedy, pause_remedy
from penstock.cli.text.shard_table import shard_line
from penstock.errors import RedisUnavailable

#: Minimum seconds between two estimates of the remaining time.
_ESTIMATE_INTERVAL_S = 10.0


class JobDisplay(Protocol):
    """Shows the progress of a job."""

    def show(self, job: Batch, estimate: Estimate | None) -> None:
        """Show the current state of the job."""


def watch_job(batches: Batches, id: str, *, timeout: float | None = None) -> Batch:
    """Show the progress of job ``id`` on stdout until it ends.

    Returns the ended job. Raises `TimeoutError` after ``timeout`` seconds.
    """
    with _display() as display:
        estimate: Estimate | None = None
        next_estimate_at = 0.0

        def show(job: Batch) -> None:
            nonlocal estimate, next_estimate_at
            if time.monotonic() >= next_estimate_at or job.state.ended or job.paused:
                with suppress(RedisUnavailable):  # the last one is good enough
                    estimate = batches.estimate(job)
                next_estimate_at = time.monotonic() + _ESTIMATE_INTERVAL_S
            display.show(job, estimate)

        return batches.wait(id, show, timeout=timeout)


def _display() -> AbstractContextManager[JobDisplay]:
    if not sys.stdout.isatty():
        return LogDisplay()
    from penstock.cli.text.live_table import LiveTable

    return LiveTable(Console())


class LogDisplay:
    """Prints one line per change, for logs and pipes."""

    def __init__(self) -> None:
        self._printed: dict[str, str] = {}  #: subject → the last line printed about it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Release nothing; `LiveTable` has a terminal to restore."""

    def show(self, job: Batch, estimate: Estimate | None) -> None:
        """Print a line for everything that has changed since the previous call."""
        counts = job.request_counts
        batches = quantity(len(job.shards), "batch", "batches")
        first = f"{quantity(counts.total, 'request')} in {batches}"
        self._print_change("job", first, once=True)
        if estimate and not job.state.ended:
            self._print_change("remaining", f"remaining: {remaining_time(estimate)}")
        for shard in job.shards:
            if shard.state != ShardState.PLANNED:
                self._print_change(str(shard.number), shard_line(shard))
        if job.errors:
            self._print_change("errors", f"errors  {error_counts(job.errors)}")
        if job.paused:
            paused = f"paused  {notice_text(job.paused)} ({pause_remedy(job)})"
            self._print_change("paused", paused)
        if job.alert:
            alert = f"alert  {notice_text(job.alert)} ({alert_remedy(job.alert)})"
            self._print_change("alert", alert)
        if not job.paused and self._printed.pop("paused", ""):
            self._print("resumed")
        if job.state.ended:
            self._print_change("ended", f"{job.state}  {outcome_counts(counts)}")

    def _print_change(self, subject: str, line: str, *, once: bool = False) -> None:
        previous = self._printed.get(subject)
        if previous is None or (previous != line and not once):
            self._printed[subject] = line
            self._print(line)

    def _print(self, line: str) -> None:
        click.echo(line)
        sys.stdout.flush()
