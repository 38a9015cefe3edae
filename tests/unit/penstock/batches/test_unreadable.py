"""Stored result lines that only a reader parses, and lines by their type."""

import json

import orjson

from penstock.batches.unreadable import errored, lines_of_types, parse_line
from penstock.views import View


def test_half_a_surrogate_pair_and_long_integers_are_read() -> None:
    line = b'{"custom_id":"a","result":{"type":"succeeded","message":{"t":"\\ud83d","n":%d}}}'
    read = View(parse_line(line % 10**30))
    assert (read.result.message.t, read.result.message.n) == ("\ufffd", 10**30)


def test_a_line_that_is_nested_too_deeply_is_errored_for_its_reader() -> None:
    line = b'{"custom_id":"a-1","result":{"type":"succeeded","message":{"content":%s}}}'
    line %= b"[" * 2_000 + b"]" * 2_000
    read = View(parse_line(line))
    assert (read.custom_id, read.result.type) == ("a-1", "errored")
    assert read.result.error.error.type == "unreadable_result"
    assert read.result.raw.encode() == line


def test_lines_are_chosen_by_their_type() -> None:
    results = [
        {"type": "succeeded", "message": {"text": '"type":"errored"'}},
        errored("x", "y"),
        {"type": "expired"},
        {"type": "a type of a newer API"},
    ]
    lines = [
        json.dumps({"custom_id": str(number), "result": each}).encode()
        for number, each in enumerate(results)
    ]

    def ids(*types: str) -> str:
        return "".join(orjson.loads(line)["custom_id"] for line in lines_of_types(lines, types))

    assert ids("succeeded") == "0"
    assert ids("errored") == "13"
    assert ids("expired", "canceled") == "2"
