"""The names under which chunks are stored, and the spools that a process uses; pure.

Records say which chunks a shard has and where they are stored, and every program that enqueues can
write a record. So neither is used as it is found: a name has one of the forms below, which contain
nothing that a path or a key could interpret, and an address is only compared with the settings.
"""

import re
from typing import Final

from penstock.errors import ConfigurationError
from penstock.settings import ClientSettings

#: What follows the kind of the chunks: ``0``, or a shard, the epoch of a claim, and what it did.
_SUFFIX: Final = r"[0-9]{1,18}(-[0-9]{1,18}(-[a-z]{1,16})?)?"
_SPOOL: Final = re.compile(_SUFFIX)
_NAME: Final = re.compile(rf"(requests|ids|results|failed)-{_SUFFIX}")

#: Maximum characters of an address from Redis in a message.
_SHOWN: Final = 120


def is_chunk_name(name: str) -> bool:
    """Whether ``name`` is one that Penstock gives to chunks.

    >>> is_chunk_name("results-0-1764537283000"), is_chunk_name("results-../../0")
    (True, False)
    """
    return _NAME.fullmatch(name) is not None


def is_chunk_suffix(suffix: str) -> bool:
    """Whether ``suffix`` can follow ``requests-`` and ``ids-`` in the names of a shard's chunks."""
    return _SPOOL.fullmatch(suffix) is not None


def permitted_spool(address: str, settings: ClientSettings) -> str:
    """Return the spool of this process whose address a record has; empty: Redis.

    Raises `ConfigurationError` for any other address: it comes from Redis, where every program
    that enqueues can write it, and is opened with the permissions of this process.
    """
    if not address:
        return ""
    for spool in (settings.spool_url, *settings.former_spool_urls):
        if spool.rstrip("/") == address.rstrip("/"):
            return spool
    own = settings.spool_url or "Redis"
    raise ConfigurationError(
        f"the spool of the job is {address[:_SHOWN]!r}, and that of this process is {own}; set "
        "PENSTOCK_SPOOL_URL to the spool of the producers, or add it to "
        "PENSTOCK_FORMER_SPOOL_URLS to read the jobs that were submitted with it"
    )
