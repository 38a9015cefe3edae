"""The file with the URL of this user's private Redis, so that its password need not be copied.

``penstock up`` and ``penstock demo --keep`` write it while they run. Commands read it if
``PENSTOCK_REDIS_URL`` is not set. Only the user can read the file and its folder, and a file of
another user, or a link, is not read.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def file_path() -> Path:
    """Return where the file is: in the user's folder for running programs, or in the cache."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(runtime) if runtime and os.path.isdir(runtime) else Path.home() / ".cache"
    return folder / "penstock" / "redis-url"


@contextlib.contextmanager
def published(url: str) -> Iterator[None]:
    """Have the file while the block runs. The last of several deployments has it."""
    path = file_path()
    content = f"{os.getpid()} {url}\n"
    try:
        _write(path, content)
    except OSError:  # a home that cannot be written: the user can copy the URL
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text() == content:
                path.unlink()


def find_url() -> str | None:
    """Return the URL in the file; None if there is no file of a process that runs."""
    try:
        descriptor = os.open(file_path(), os.O_RDONLY | os.O_NOFOLLOW)
    except (OSError, RuntimeError):
        return None
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        about = os.fstat(descriptor)
        if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
            return None
        pid, _, url = file.readline().strip().partition(" ")
    return url if url.startswith("redis://") and _runs(pid) else None


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    own = path.with_name(f"{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    own.unlink(missing_ok=True)
    with open(os.open(own, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
    own.replace(path)


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, OSError):
        return False
    return True
