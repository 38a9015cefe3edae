"""Where a person waits: a live table or a bar on a terminal, a plain line per step elsewhere."""

import sys
import time
from contextlib import AbstractContextManager
from typing import Protocol, Self

import click
from rich.console import Console

from penstock.batches.client import Batches
from penstock.batches.estimates import Estimate
from penstock.batches.view import Batch
from penstock.cli.text.job_fields import notice_text, remaining_time
from penstock.cli.text.output import outcome_counts, quantity
from penstock.cli.text.remedies import remedy
from penstock.cli.text.shard_table import shard_line

#: Seconds after which the remaining time is estimated anew, at the next step of the job.
_ESTIMATE_S = 10.0


class JobDisplay(Protocol):
    """Something that shows a job."""

    def show(self, job: Batch, estimate: Estimate | None) -> None:
        """DemoSteps the job as it stands."""


def watch_job(batches: Batches, id: str, *, timeout: float | None = None) -> Batch:
    """DemoSteps job ``id`` on stdout until it has ended; returns it as it stands then.

    Raises `TimeoutError` after ``timeout`` seconds.
    """
    with _display() as board:
        guess: Estimate | None = None
        due = 0.0

        def show(job: Batch) -> None:
            nonlocal guess, due
            if time.monotonic() >= due or job.state.ended or job.paused:
                guess, due = batches.estimate(job), time.monotonic() + _ESTIMATE_S
            board.show(job, guess)

        return batches.wait(id, show, timeout=timeout)


def _display() -> AbstractContextManager[JobDisplay]:
    if not sys.stdout.isatty():
        return LogDisplay()
    from penstock.cli.text.live_table import LiveTable

    return LiveTable(Console())


class LogDisplay:
    """For logs and pipes: a line whenever something is not what it was."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def show(self, job: Batch, estimate: Estimate | None) -> None:
        """Print what has changed."""
        counts = job.request_counts
        batches = quantity(len(job.shards), "batch", "batches")
        first = f"{quantity(counts.total, 'request')} in {batches}"
        self._print_change("job", first, once=True)
        if estimate and not job.state.ended:
            self._print_change("left", f"{remaining_time(estimate)} left")
        for shard in job.shards:
            if shard.state != "planned":
                self._print_change(str(shard.number), shard_line(shard))
        notices = {"paused": job.paused, "alert": job.alert}
        for name, notice in notices.items():
            if notice:
                action = f" ({remedy(job)})" if name == "paused" else ""
                self._print_change(name, f"{name}  {notice_text(notice)}{action}")
        if not job.paused and self._last.pop("paused", ""):
            self._print("resumed")
        if job.state.ended:
            self._print_change("ended", f"{job.state}  {outcome_counts(counts)}")

    def _print_change(self, name: str, line: str, *, once: bool = False) -> None:
        last = self._last.get(name)
        if last is None or (last != line and not once):
            self._last[name] = line
            self._print(line)

    def _print(self, line: str) -> None:
        click.echo(line)
        sys.stdout.flush()
