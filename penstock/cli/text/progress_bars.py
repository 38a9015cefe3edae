"""Progress bars on stderr, where that is a terminal."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from gzip import GzipFile
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
    """Yield the lines of ``file``, with a progress bar that counts bytes and requests."""
    if not sys.stderr.isatty():
        yield iter(file)
        return
    columns = (
        TextColumn("Reading"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]:,} requests"),
    )
    with _Bar(*columns, total=_size(file)) as bar:
        yield _counting_bytes(file, bar)


@contextmanager
def results_bar(lines: Iterator[bytes], total: int, *, done: int = 0) -> Iterator[Iterator[bytes]]:
    """Yield ``lines``, with a bar that starts at ``done`` of ``total`` results."""
    if not sys.stderr.isatty():
        yield lines
        return
    columns = (
        TextColumn("Writing"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} results"),
        TimeRemainingColumn(),
    )
    with _Bar(*columns, total=total, done=done) as bar:
        yield _counting_lines(lines, bar, done)


class _Bar(Progress):
    """A bar that reads its counters when it is drawn.

    Counting a line costs next to nothing, and the bar is current even if the next line takes
    hours.
    """

    def __init__(self, *columns: ProgressColumn, total: int | None, done: int = 0) -> None:
        self.done = done  #: completed part of ``total``, in bytes or lines
        self.lines = done  #: lines read
        super().__init__(*columns, console=Console(stderr=True), transient=True)
        self.add_task("", total=total, completed=done, lines=done)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Update the task from the counters and return what rich draws."""
        for task in self.task_ids:
            self.update(task, completed=self.done, lines=self.lines)
        return super().get_renderables()


def _counting_lines(lines: Iterator[bytes], bar: _Bar, done: int) -> Iterator[bytes]:
    for bar.done, line in enumerate(lines, start=done + 1):
        yield line


def _counting_bytes(file: IO[bytes], bar: _Bar) -> Iterator[bytes]:
    for bar.lines, line in enumerate(file, start=1):
        bar.done += len(line)
        yield line


def _size(file: IO[bytes]) -> int | None:
    if isinstance(file, GzipFile):
        return None  # the size of its content is not known
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None
