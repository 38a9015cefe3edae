"""The hash by which the simulator names the params of a request.

It is the first 16 hexadecimal digits of the SHA-256 of
`orjson.dumps(params, option=orjson.OPT_SORT_KEYS)`; a live call's params are its
whole body.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import orjson


def params_hash(params: Any) -> int:
    """Return the hash of a request's params as a number of 64 bits."""
    data = orjson.dumps(params, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(sha256(data).digest()[:8], "big")


def hex_digest(key: int) -> str:
    """Return a hash as it is shown: 16 hexadecimal digits."""
    return f"{key:016x}"
