"""JSON with one field replaced by raw bytes, which need not be JSON."""

from typing import Any

import orjson

_PLACE = "\0raw"
_WRITTEN_PLACE = orjson.dumps(_PLACE)


def with_field(data: Any, path: str, raw: bytes) -> bytes:
    """``data`` as JSON, with the field at a dotted ``path`` set to ``raw``.

    Numbers in the path are indices of lists. Empty ``raw`` removes the field. Missing objects on
    the way are added.
    """
    *way, last = path.split(".")
    parent = data
    for name in way:
        if isinstance(parent, list):
            parent = parent[int(name)]
            continue
        if not isinstance(parent.get(name), dict | list):
            parent[name] = {}
        parent = parent[name]
    key: Any = int(last) if isinstance(parent, list) else last
    if raw:
        parent[key] = _PLACE
    elif key in parent:
        del parent[key]
    return orjson.dumps(data).replace(_WRITTEN_PLACE, raw)


def nested(depth: int = 2000) -> bytes:
    """Arrays inside arrays, which parsers with a limit reject."""
    return b"[" * depth + b"]" * depth
