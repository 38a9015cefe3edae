"""Where a person waits: a live table or a bar on a terminal, a plain line per step elsewhere."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Protocol, Self

import click
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from penstock.batches.client import Batches
from penstock.batches.estimates import Estimate
from penstock.batches.view import Batch
from penstock.cli.text.job_fields import notice_text, remaining_time, shard_line
from penstock.cli.text.output import outcome_counts, quantity
from penstock.cli.text.remedies import remedy

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


@contextmanager
def requests_bar(file: IO[bytes]) -> Iterator[Iterator[bytes]]:
    """The lines of ``file``; while they are taken, a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield iter(file)
        return
    columns = (
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]:,} requests"),
    )
    with _Bar(*columns, total=_size(file)) as counter:
        yield _advancing(file, counter)


@contextmanager
def results_bar(lines: Iterator[bytes], total: int, *, done: int = 0) -> Iterator[Iterator[bytes]]:
    """The same lines; while they are taken, a bar on stderr if that is a terminal. ``done``: so
    many of them were taken before."""
    if not sys.stderr.isatty():
        yield lines
        return
    columns = (
        TextColumn("writing"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} results"),
        TimeRemainingColumn(),
    )
    with _Bar(*columns, total=total, done=done) as counter:
        yield _counted(lines, counter, done)


class _Bar(Progress):
    """A bar that looks up how far it is whenever it is drawn: counting costs next to nothing, and
    while the next line takes hours the last one is shown."""

    def __init__(self, *columns: ProgressColumn, total: int | None, done: int = 0) -> None:
        self.done = self.lines = done  #: of ``total``; lines, where that counts something else
        super().__init__(*columns, console=Console(stderr=True), transient=True)
        self.add_task("", total=total, completed=done, lines=done)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn."""
        for task in self.task_ids:
            self.update(task, completed=self.done, lines=self.lines)
        return super().get_renderables()


def _counted(lines: Iterator[bytes], counter: _Bar, done: int) -> Iterator[bytes]:
    for counter.done, line in enumerate(lines, start=done + 1):
        yield line


def _advancing(file: IO[bytes], counter: _Bar) -> Iterator[bytes]:
    for counter.lines, line in enumerate(file, start=1):
        counter.done += len(line)
        yield line


def _size(file: IO[bytes]) -> int | None:
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None
