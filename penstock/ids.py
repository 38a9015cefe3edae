"""Ids that sort by time of creation (UUID version 7, RFC 9562 §5.7)."""

import os
import re
import time
from uuid import UUID

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def new_id() -> str:
    """Create a UUIDv7, as text. (The standard library can do this from Python 3.14 on.)"""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


def created_ms(id: str) -> int:
    """Return when an id was created, in ms since 1970."""
    return UUID(id).int >> 80


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an id. Nothing else becomes part of a key."""
    return _UUID.fullmatch(text) is not None
