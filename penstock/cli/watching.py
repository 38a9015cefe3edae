"""Where a person waits: progress bars on a terminal, a plain line per step elsewhere."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from penstock import events
from penstock.batch import Batch
from penstock.batches import Batches
from penstock.cli.output import outcome
from penstock.shards import Shard


def watched(batches: Batches, id: str, *, timeout: float | None = None) -> Batch:
    """Show job ``id`` on stdout until it has ended; returns it as it stands then.

    ``timeout`` bounds the seconds between two steps; then `TimeoutError` is raised.
    """
    with _Bars() if sys.stdout.isatty() else _Lines() as view:
        view.show(batches.retrieve(id))
        for event in batches.events(id, timeout=timeout):
            if event.type in (events.PROGRESS, events.END):
                view.show(batches.retrieve(id))
        job = batches.retrieve(id)
        view.show(job)
    return job


@contextmanager
def bytes_read(file: IO[bytes]) -> Iterator[Iterator[bytes]]:
    """The lines of ``file``; while they are taken, a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield iter(file)
        return
    columns = (
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]} requests"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _advancing(file, progress, progress.add_task("", total=_size(file), lines=0))


def _advancing(file: IO[bytes], progress: Progress, task: TaskID) -> Iterator[bytes]:
    for number, line in enumerate(file, start=1):
        progress.update(task, advance=len(line), lines=number)
        yield line


def _size(file: IO[bytes]) -> int | None:
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


def shard_line(shard: Shard) -> str:
    """A shard's state in words."""
    parts = [f"shard {shard.number}", f"{shard.state:<11}", shard.batch_id, outcome(shard.counts)]
    return "  ".join(part for part in parts if part)


class _Lines:
    """For logs and pipes: a line whenever a shard is not what it was."""

    def __init__(self) -> None:
        self._last: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def show(self, job: Batch) -> None:
        """Print what has changed."""
        for shard in job.shards:
            line = shard_line(shard)
            if self._last.get(shard.number) != line:
                self._last[shard.number] = line
                click.echo(line)
                sys.stdout.flush()


class _Bars:
    """For terminals: a bar per shard. It only pulses until the API tells the counts, which it
    does when the whole shard has ended."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("shard {task.fields[shard].number}"),
            TextColumn("{task.fields[shard].state:<11}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.fields[shard].requests}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[shard].batch_id}", style="dim"),
            console=Console(),
        )
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job: Batch) -> None:
        """Bring the bars up to date."""
        for shard in job.shards:
            if shard.number not in self._tasks:
                self._tasks[shard.number] = self._progress.add_task("", total=None, shard=shard)
            self._update(shard, ended=job.state.ended)

    def _update(self, shard: Shard, *, ended: bool) -> None:
        known = sum(asdict(shard.counts).values()) - shard.counts.processing
        total = shard.requests if known or ended else None
        self._progress.update(self._tasks[shard.number], total=total, completed=known, shard=shard)
