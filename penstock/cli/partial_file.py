"""A file of lines that can be resumed until it is complete.

Until then it is named ``FILE.part``. Resuming keeps its complete lines and removes an incomplete
last line. A lock prevents two processes from writing the same file.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from penstock.cli.command_error import CommandError

_BLOCK_BYTES = 1 << 20


def partial_path(path: Path) -> Path:
    """Return the name of an incomplete file."""
    return path.with_name(f"{path.name}.part")


class PartialFile:
    """An incomplete file, opened for appending lines."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self.path = path  #: name of the incomplete file
        self.lines, self.last_line = _remove_incomplete_line(file)  #: number of lines; last of them

    def write(self, line: bytes) -> None:
        """Append a line, given without its newline."""
        self._file.write(line + b"\n")
        self.lines += 1

    def flush(self) -> None:
        """Make the lines written so far visible to other processes."""
        self._file.flush()


@contextmanager
def open_partial(path: Path, *, resume: bool) -> Iterator[PartialFile]:
    """Open the incomplete file of ``path``, either empty or to ``resume`` it.

    If the block succeeds, the file is renamed to ``path``; otherwise the lines written are kept.
    Raises `CommandError` if another process is writing the file.
    """
    part = partial_path(path)
    file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    with file:
        _lock(file, part)
        if not resume:
            file.truncate(0)
        partial_file = PartialFile(file, part)
        try:
            yield partial_file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            if not partial_file.lines:
                part.unlink()
            raise


def _lock(file: IO[bytes], part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have completed and renamed the file between our open and our lock.
        locked = part.exists() and os.path.samestat(part.stat(), os.fstat(file.fileno()))
    except BlockingIOError:
        locked = False
    if not locked:
        raise CommandError(f"{part} is being written by another process")


def _remove_incomplete_line(file: IO[bytes]) -> tuple[int, bytes]:
    """Remove an incomplete last line and seek to the end of the file.

    Returns the number of lines that remain and the last of them.
    """
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0, b""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1
        last_line = content[content.rfind(b"\n", 0, max(end - 1, 0)) + 1 : max(end - 1, 0)]
    file.truncate(end)
    file.seek(0)
    lines = sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))
    file.seek(end)
    return lines, last_line
