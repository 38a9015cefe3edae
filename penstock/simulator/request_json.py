"""JSON of requests: as strict as the API, with integers of any length kept exact."""

import json
from typing import Any

import orjson
from pydantic_core import from_json


def loads(raw: bytes | bytearray) -> Any:
    """Parse the JSON of a request. Raises `ValueError`."""
    # orjson makes floats of integers beyond 64 bits; the API does not.
    return from_json(raw, allow_inf_nan=False)


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """Write what `loads` has returned, as orjson does."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(
            value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys
        ).encode()
