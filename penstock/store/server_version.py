"""The versions of Redis that Penstock needs, and how a server names its own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

#: The first version with ``WAITAOF``: a batch worker has the record of a create call on disk
#: before it makes the call. Every Valkey has the command, because Valkey began as Redis 7.2.
MIN_REDIS: Final = (7, 2)
#: What to install, for messages.
REQUIRED: Final = "Redis 7.2 or later, or Valkey"

# Valkey 7.2 leaves its name out; Redis never did.
_VERSION_LINE = re.compile(r"^(Redis s|Valkey s|S)erver v=(\d+(?:\.\d+)+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """What kind of server one is, and which version of it."""

    product: Literal["Redis", "Valkey"]
    number: str  #: such as ``7.2.4``

    def __str__(self) -> str:
        return f"{self.product} {self.number}"

    @property
    def has_waitaof(self) -> bool:
        """Whether a client can wait until its writes are in the append-only file on disk."""
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.number))
        return self.product == "Valkey" or numbers >= MIN_REDIS


def version_printed(output: str) -> ServerVersion | None:
    """The version in the output of ``redis-server --version``; None if it has none.

    >>> version_printed("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    ServerVersion(product='Redis', number='7.0.15')
    """
    line = _VERSION_LINE.search(output)
    if line is None:
        return None
    return ServerVersion("Redis" if line[1] == "Redis s" else "Valkey", line[2])


def version_running(info: Mapping[str, Any]) -> ServerVersion:
    """The version that a running server reports in its ``INFO``."""
    if info.get("server_name") == "valkey":
        return ServerVersion("Valkey", str(info["valkey_version"]))
    return ServerVersion("Redis", str(info["redis_version"]))
