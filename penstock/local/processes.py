"""Local child processes that never outlive us: Redis, simulator, workers, Flower.

Each child gets a guard: a shell that holds the reading end of a pipe from us. When we end, in
whatever way (kill -9 too), the pipe closes, and the guard ends the child and removes its folder.
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

# `cat` ends when the pipe closes. $1 is the child's process group, $2 its folder.
_GUARD = (
    'cat >/dev/null; kill -TERM -"$1" 2>/dev/null; n=0; '
    'while kill -0 -"$1" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; '
    'kill -KILL -"$1" 2>/dev/null; rm -rf "$2"'
)


class LocalProcess:
    """One child process, with its log and working directory in a private folder."""

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
        self._given_folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.folder = Path()

    def start(self) -> Self:
        """Start the child and its guard; raises `LocalProcessError` if it cannot be started."""
        with _uninterrupted():
            self._start()
        return self

    def _start(self) -> None:
        folder = self._given_folder or Path(tempfile.mkdtemp(prefix=f"penstock-{self.name}-"))
        self.folder = folder
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    env=self._env,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Its own group: Ctrl-C reaches us alone, and we end the children in order.
                    start_new_session=True,
                )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise LocalProcessError(f"{self.name} cannot be started: {error}") from error
        removed = "" if self._given_folder else str(folder)
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._process.pid), removed],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def log(self) -> Path:
        """The file with everything the child printed."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._running().pid

    @property
    def started(self) -> bool:
        """Whether the child was started; it may have ended since."""
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """How the child ended (negative: by that signal); None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process is not None and self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, timeout: float = 30.0) -> Self:
        """Wait for ``ready()``. Raises `LocalProcessError` with the end of the log otherwise."""
        deadline = time.monotonic() + timeout
        while not ready():
            code = self._running().poll()
            if code is not None:
                raise LocalProcessError(f"{self.name} ended with code {code}{self.tail()}")
            if time.monotonic() > deadline:
                raise LocalProcessError(f"{self.name} not ready in {timeout:g} s{self.tail()}")
            select.select([], [], [], 0.02)
        return self

    def tail(self, lines: int = 12) -> str:
        """The end of the log, for an error message."""
        try:
            text = self.log.read_text(errors="replace").strip()
        except OSError:
            return ""
        return ":\n" + "\n".join(text.splitlines()[-lines:]) if text else ""

    def kill(self) -> None:
        """End the child at once (SIGKILL), as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._running().wait()

    def stop(self, *, timeout: float = 10.0) -> int:
        """Ask the child to end (SIGTERM), then make it; returns its exit code."""
        process = self._running()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._guard is not None:
            # Closing the pipe makes the guard end what is left of the group and the folder.
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None
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


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back for a moment: an interrupt between the start of a child and
    that of its guard would leave a child that nobody ends."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    held: list[int] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in held:
            os.kill(os.getpid(), number)


def free_port() -> int:
    """A TCP port on loopback that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
