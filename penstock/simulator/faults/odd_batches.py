"""Batch objects that no documentation promises, as data."""

from typing import Any

import orjson

from penstock.simulator.faults.raw_json import with_field

#: Name: the field of a batch, and its raw JSON; empty: without the field.
_FIELDS: dict[str, tuple[str, bytes]] = {
    "counts_null": ("request_counts", b"null"),
    "counts_missing": ("request_counts", b""),
    "counts_strings": ("request_counts", b'{"processing":"1","succeeded":"0"}'),
    "counts_list": ("request_counts", b"[]"),
    "status_unknown": ("processing_status", b'"validating"'),
    "status_null": ("processing_status", b"null"),
    "status_missing": ("processing_status", b""),
    "status_list": ("processing_status", b'["ended"]'),
    "id_null": ("id", b"null"),
    "id_number": ("id", b"7"),
    "created_at_text": ("created_at", b'"yesterday"'),
    "created_at_null": ("created_at", b"null"),
    "ended_at_number": ("ended_at", b"1764547200"),
    "url_number": ("results_url", b"7"),
    "url_null": ("results_url", b"null"),
}
#: The response is this JSON value instead of a batch or a page of batches.
_VALUES: dict[str, Any] = {"null": None, "list": [], "text": "ok", "empty": {}}

ODD_BATCHES = frozenset({*_FIELDS, *_VALUES})


def odd(name: str | None, response: dict[str, Any]) -> bytes:
    """A batch, or a page of batches, as JSON; each batch is odd as one of `ODD_BATCHES`."""
    if name is None:
        return orjson.dumps(response)
    if name in _VALUES:
        return orjson.dumps(_VALUES[name])
    field, raw = _FIELDS[name]
    if "data" not in response:
        return with_field(response, field, raw)
    batches = b",".join(with_field(batch, field, raw) for batch in response["data"])
    return with_field(response, "data", b"[%b]" % batches)
