"""Child processes that never outlive this process.

Each child has a watchdog: a shell that reads from a pipe held by this process. When this process
ends, even by SIGKILL, the pipe closes, and the watchdog stops the child and removes its folder.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.errors import LocalProcessError

# `cat` ends when the pipe closes. $1 is the process group of the child, $2 its folder.
_WATCHDOG = (
    'cat >/dev/null; kill -TERM -"$1" 2>/dev/null; n=0; '
    'while kill -0 -"$1" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; '
    'kill -KILL -"$1" 2>/dev/null; rm -rf "$2"'
)


class LocalProcess:
    """A child process with its log and working directory in a private folder.

    ``env`` is added to the inherited environment. Without ``folder``, a temporary one is created
    and removed when the child has stopped. Only this user can read what the child creates.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self._command = [str(part) for part in command]
        self._env = {**os.environ, **(env or {})}
        self._input = b""  #: what the child reads from its standard input, such as a password
        self._given_folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self.folder = Path()

    def start(self) -> Self:
        """Start the child and its watchdog. Raises `LocalProcessError` on failure."""
        with _signals_deferred():
            self._start()
        return self

    def _start(self) -> None:
        folder = self._given_folder or Path(tempfile.mkdtemp(prefix=f"penstock-{self.name}-"))
        self.folder = folder
        try:
            with open(self.log, "ab", opener=_private) as log, tempfile.TemporaryFile() as given:
                given.write(self._input)
                given.seek(0)
                self._process = subprocess.Popen(
                    self._command,
                    env=self._env,
                    cwd=folder,
                    stdin=given,
                    umask=0o077,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A process group of its own: Ctrl-C reaches only this process, which stops the
                    # children in order.
                    start_new_session=True,
                )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise LocalProcessError(f"cannot start {self.name}: {error}") from error
        removed = "" if self._given_folder else str(folder)
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(self._process.pid), removed],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def log(self) -> Path:
        """The file with everything the child has printed."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._running().pid

    @property
    def started(self) -> bool:
        """Whether the child was started; it may have exited since."""
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """The exit code (negative: ended by that signal); None while the child runs."""
        return None if self._process is None else self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process is not None and self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, timeout: float = 30.0) -> Self:
        """Wait until ``ready()`` is true, at most ``timeout`` seconds.

        Raises `LocalProcessError`, with the end of the log, if the child exits or the time is over.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            code = self._running().poll()
            if code is not None:
                raise LocalProcessError(f"{self.name} exited with code {code}{self.tail()}")
            if time.monotonic() > deadline:
                raise LocalProcessError(
                    f"{self.name} was not ready within {timeout:g} s{self.tail()}"
                )
            select.select([], [], [], 0.02)
        return self

    def tail(self, lines: int = 12) -> str:
        """Return the last lines of the log, for an error message."""
        try:
            text = self.log.read_text(errors="replace").strip()
        except OSError:
            return ""
        return ":\n" + "\n".join(text.splitlines()[-lines:]) if text else ""

    def kill(self) -> None:
        """Kill the child (SIGKILL), as in a crash."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._running().wait()

    def stop(self, *, timeout: float = 10.0) -> int:
        """Stop the child and return its exit code.

        It is sent SIGTERM, and SIGKILL if it still runs after ``timeout`` seconds.
        """
        process = self._running()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._watchdog is not None:
            # Closing the pipe makes the watchdog stop the rest of the group and remove the folder.
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None
        return process.returncode

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LocalProcessError(f"{self.name} was not started")
        return self._process

    def __enter__(self) -> Self:
        return self if self._process else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.stop()


def _private(path: str, flags: int) -> int:
    # Not through a link, which another user may have made in a folder that was given.
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defer SIGINT and SIGTERM until the block ends.

    An interrupt between the start of a child and that of its watchdog would leave a child that
    is never stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    deferred: list[int] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, lambda number, _frame: deferred.append(number))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in deferred:
            os.kill(os.getpid(), number)


def free_port() -> int:
    """Return a TCP port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
