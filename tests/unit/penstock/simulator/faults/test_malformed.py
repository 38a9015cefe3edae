"""The tables of malformed events, lines, batches and headers: what each name changes."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from penstock.simulator.faults.malformed_events import MALFORMED_EVENTS, changes
from penstock.simulator.faults.malformed_headers import MALFORMED_HEADERS, headers
from penstock.simulator.faults.malformed_lines import MALFORMED_LINES, malformed
from penstock.simulator.faults.odd_batches import ODD_BATCHES, odd
from penstock.simulator.faults.raw_json import with_field
from penstock.simulator.messages import sse
from penstock.simulator.messages.answers import Answer
from penstock.simulator.messages.block import Block
from penstock.simulator.messages.script import build_script

BLOCK = Block(kind="text", pieces=("one ", "two"))
ANSWER = Answer(
    model="claude-haiku-4-5",
    blocks=(BLOCK,),
    stop_reason="end_turn",
    stop_sequence=None,
    input_tokens=7,
    output_tokens=2,
)
EVENTS = [action.data for action in build_script(ANSWER, "msg_1").actions]
DELTA = EVENTS.index(next(iter(sse.deltas(0, BLOCK))))
RESULT = {"type": "succeeded", "message": sse.message(ANSWER, "msg_1")}
LINE = orjson.dumps({"custom_id": "a", "result": RESULT}) + b"\n"
BATCH: dict[str, Any] = {"id": "b", "request_counts": {}, "processing_status": "ended"}


def changed(name: str) -> list[bytes]:
    """The events of a malformed stream."""
    new = {each.place: each.events for each in changes(name, EVENTS, DELTA)}
    return [data for place, event in enumerate(EVENTS) for data in new.get(place, (event,))]


@pytest.mark.parametrize("name", sorted(MALFORMED_EVENTS))
def test_each_malformed_stream_differs_from_the_stream_and_is_framed(name: str) -> None:
    found = changed(name)
    assert found != EVENTS
    assert all(event.endswith(b"\n\n") for event in found)
    assert all(event.count(b"\n\n") <= 2 for event in found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text_null", b'"delta":{"type":"text_delta","text":null}'),
        ("index_missing", b'{"type":"content_block_delta","delta":{'),
        ("stop_reason_object", b'"stop_reason":{"type":"end_turn"}'),
        ("usage_strings", b'"usage":{"output_tokens":"12"'),
        ("error_type_list", b'"error":{"type":["api_error"]'),
        ("nested_field", b'"extra":' + b"[" * 2000),
        ("half_surrogate", rb'"half \ud83d "'),
        ("usage_nan", b'"output_tokens":NaN'),
        ("usage_long", b'"output_tokens":18446744073709551616'),
        ("block_null", b'"content_block":null'),
    ],
)
def test_a_malformed_event_holds_the_bytes_that_its_name_promises(
    name: str, expected: bytes
) -> None:
    assert sum(expected in event for event in changed(name)) == 1


def test_a_pair_of_surrogates_can_be_split_over_two_deltas() -> None:
    found = [event for event in changed("split_surrogate") if b"text_delta" in event]
    assert rb'\ud83d"' in found[0]
    assert rb'"\ude00' in found[1]
    assert len(found) == 3


def test_an_event_can_be_missing_or_follow_a_stray_one() -> None:
    assert not [event for event in changed("no_block_start") if b"content_block_start" in event]
    place = changed("stray_stop").index(EVENTS[DELTA])
    assert b'"index":7' in changed("stray_stop")[place - 1]


def test_blocks_can_be_numbered_with_gaps() -> None:
    numbers = {orjson.loads(e.split(b"data: ")[1]).get("index") for e in changed("index_gap")}
    assert numbers == {None, 1}


def test_an_event_that_a_stream_does_not_have_is_not_changed() -> None:
    """A delta of `at` that is beyond the last one."""
    assert changes("text_null", EVENTS, len(EVENTS) - 1) == []


@pytest.mark.parametrize("name", sorted(MALFORMED_LINES))
def test_each_malformed_line_differs_from_the_line_and_is_one_line(name: str) -> None:
    found = malformed(LINE, name)
    assert found != LINE
    assert found.endswith(b"\n")
    assert found.count(b"\n") == 1


def test_a_malformed_line_holds_the_bytes_that_its_name_promises() -> None:
    assert b'"message":null' in malformed(LINE, "message_null")
    assert b"custom_id" not in malformed(LINE, "id_missing")
    assert len(malformed(LINE, "oversized")) > 30_000_000
    assert LINE.startswith(malformed(LINE, "not_json").rstrip(b"\n"))


@pytest.mark.parametrize("name", sorted(ODD_BATCHES))
def test_each_odd_batch_differs_from_the_batch_alone_and_in_a_page(name: str) -> None:
    batch = BATCH | {"created_at": "2026", "ended_at": None, "results_url": "http://x"}
    page: dict[str, Any] = {"data": [batch, batch], "has_more": False}
    plain = [odd(None, dict(each)) for each in (batch, page)]
    assert plain == [orjson.dumps(batch), orjson.dumps(page)]
    assert odd(name, dict(batch)) != plain[0]
    assert odd(name, {**page, "data": [dict(batch), dict(batch)]}) != plain[1]


def test_each_batch_of_a_page_is_odd() -> None:
    found = orjson.loads(odd("counts_null", {"data": [dict(BATCH), dict(BATCH)]}))
    assert [each["request_counts"] for each in found["data"]] == [None, None]


@pytest.mark.parametrize("name", sorted(MALFORMED_HEADERS))
def test_each_set_of_headers_is_text_of_one_line(name: str) -> None:
    found = headers(name)
    assert found
    assert all("\n" not in value and value.isascii() for value in found.values())


def test_a_monthly_quota_is_spent_for_twenty_days() -> None:
    found = headers("monthly_quota", datetime(2026, 11, 30, tzinfo=UTC))
    assert found["anthropic-ratelimit-requests-remaining"] == "0"
    assert found["anthropic-ratelimit-requests-reset"] == "2026-12-20T00:00:00Z"
    assert len(headers("many")) == 200
    assert max(map(len, headers("long").values())) > 8192


def test_a_field_of_an_object_that_is_missing_is_added() -> None:
    assert with_field({}, "a.b", b"NaN") == b'{"a":{"b":NaN}}'
    assert with_field({"a": [1, {"b": 2}]}, "a.1.b", b"") == b'{"a":[1,{}]}'
    assert with_field({}, "a", b"") == b"{}"
