"""Progress bars on stderr, where that is a terminal."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


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
