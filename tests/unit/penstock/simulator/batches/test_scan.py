"""Scanning for the requests of a batch without parsing the JSON."""

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.simulator.batches.scan import scan

no_deadline = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CUSTOM_ID = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
TEXT = st.text() | st.sampled_from(['},{"custom_id":"x","params":{', '"}]}', "\\", "]}"])


def request(custom_id: str, text: str = "hello") -> dict[str, Any]:
    """A request in the form that clients write."""
    return {"custom_id": custom_id, "params": {"messages": [text], "tools": [{}]}}


@no_deadline
@given(st.dictionaries(CUSTOM_ID, TEXT, min_size=1))
def test_scan_returns_requests_as_they_were_written(texts: dict[str, str]) -> None:
    """Whatever their texts contain: JSON escapes a quote inside a text."""
    requests = [request(*item) for item in texts.items()]
    found = scan(bytearray(orjson.dumps({"requests": requests})))
    assert found is not None
    custom_ids, lines = found
    assert [each.decode() for each in custom_ids] == list(texts)
    assert [orjson.loads(line) for line in lines] == requests


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"requests":[]}',
        b'{"requests": [{"custom_id":"a","params":{}}]}',
        b'{"requests":[{"params":{},"custom_id":"a"}]}',
        b'{"requests":[{"custom_id":"a b","params":{}}]}',
        b'{"requests":[{"custom_id":"a","params":{}}]} ',
        b'{"requests":[{"custom_id":"a","params":{}},{"custom_id":"a","params":{}}]}',
    ],
)
def test_scan_returns_none_for_bodies_of_another_form(raw: bytes) -> None:
    """They may be valid or not."""
    assert scan(bytearray(raw)) is None
