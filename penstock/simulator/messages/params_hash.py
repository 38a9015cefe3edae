"""The hash by which the simulator identifies the params of a request.

It is shown as the first 16 hexadecimal digits of the SHA-256 of
``orjson.dumps(params, option=orjson.OPT_SORT_KEYS)``. A live call's params are its whole body.
"""

from hashlib import sha256
from typing import Any

from penstock.simulator import request_json


def params_hash(params: Any) -> int:
    """The hash of a request's params, a number of 64 bits."""
    data = request_json.dumps(params, sort_keys=True)
    return int.from_bytes(sha256(data).digest()[:8], "big")


def hex_digest(key: int) -> str:
    """A hash as it is shown: 16 hexadecimal digits."""
    return f"{key:016x}"
