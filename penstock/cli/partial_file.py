"""A file of lines that takes its name when it is complete, and can be gone on with before that.

Until then it is called ``FILE.part``. Whoever goes on keeps its complete lines: a last one that
was cut is taken off. A lock keeps two writers apart.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from penstock.cli.command_error import CommandError

_BLOCK = 1 << 20


def partial_path(path: Path) -> Path:
    """What a file is called while it is not complete."""
    return path.with_name(f"{path.name}.part")


class PartialFile:
    """A file that lines are added to."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self.path = path  #: of what is written, before it has its name
        self.lines, self.last = _trimmed(file)  #: complete lines, and the last one of them

    def write(self, line: bytes) -> None:
        """Add a line (without its line end)."""
        self._file.write(line + b"\n")
        self.lines += 1

    def flush(self) -> None:
        """Let others see what was written."""
        self._file.flush()


@contextmanager
def open_partial(path: Path, *, resume: bool) -> Iterator[PartialFile]:
    """The lines that are to become the file ``path``, anew or behind what is there. It gets its
    name when the block ends well; otherwise what was written is kept."""
    part = partial_path(path)
    file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    with file:
        _lock(file, part)
        if not resume:
            file.truncate(0)
        lines = PartialFile(file, part)
        try:
            yield lines
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            if not lines.lines:
                part.unlink()
            raise


def _lock(file: IO[bytes], part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other one may have been faster, and given the file its name meanwhile.
        ours = part.exists() and os.path.samestat(part.stat(), os.fstat(file.fileno()))
    except BlockingIOError:
        ours = False
    if not ours:
        raise CommandError(f"{part} is being written by another process")


def _trimmed(file: IO[bytes]) -> tuple[int, bytes]:
    """Take a last line that was cut off a file, and go to its end; returns how many lines it has,
    and the last one."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0, b""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1
        last = content[content.rfind(b"\n", 0, max(end - 1, 0)) + 1 : max(end - 1, 0)]
    file.truncate(end)
    file.seek(0)
    lines = sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
    file.seek(end)
    return lines, last
