"""The books of a shard: whole only when every request has exactly one line."""

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.shards import Counts
from tasks.reconciled import Books, ResultsIncomplete


def line(custom_id: str, kind: str = "succeeded", **usage: Any) -> bytes:
    result: dict[str, Any] = {"type": kind}
    if kind == "succeeded":
        result["message"] = {"model": "claude-haiku-4-5", "usage": usage}
    return orjson.dumps({"custom_id": custom_id, "result": result})


def test_every_request_with_its_one_line_closes_the_books() -> None:
    books = Books.of(["a", "b", "c", "d"])
    for custom_id, kind in (
        ("c", "expired"),
        ("a", "succeeded"),
        ("d", "errored"),
        ("b", "canceled"),
    ):
        books.take(line(custom_id, kind))
    books.close()
    assert books.as_counts() == Counts(succeeded=1, errored=1, canceled=1, expired=1)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "2 requests without a line, 0 lines without a request"),
        (["a"], "1 requests without a line, 0 lines"),
        (["a", "a"], "1 requests without a line, 1 lines"),
        (["a", "b", "b"], "0 requests without a line, 1 lines"),
        (["a", "b", "x"], "0 requests without a line, 1 lines"),
        (["A", "b"], "1 requests without a line, 1 lines"),
    ],
)
def test_anything_else_does_not(lines: list[str], words: str) -> None:
    books = Books.of(["a", "b"])
    for custom_id in lines:
        books.take(line(custom_id))
    with pytest.raises(ResultsIncomplete, match=words):
        books.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from("abcdx"), max_size=8), st.sets(st.sampled_from("abcd")))
def test_the_books_close_only_over_the_very_same_ids(came: list[str], asked: set[str]) -> None:
    books = Books.of(asked)
    for custom_id in came:
        books.take(line(custom_id))
    if sorted(came) == sorted(asked):
        books.close()
        assert books.as_counts().total == len(asked)
    else:
        with pytest.raises(ResultsIncomplete):
            books.close()


@pytest.mark.parametrize(
    "cut",
    [
        b"",
        b"{",
        line("a")[:-1],
        line("a")[5:],
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"custom_id":"a"}',
        b'{"custom_id":"a","result":null}',
        b'{"custom_id":"a","result":{}}',
        b"\xff",
        b'{"custom_id":"a","result":{"type":"succeeded"}}',
        b'{"custom_id":"a","result":{"type":"succeeded","message":null}}',
        b'{"custom_id":["a"],"result":{"type":"errored"}}',
    ],
)
def test_a_line_that_was_cut_is_noticed(cut: bytes) -> None:
    with pytest.raises(ResultsIncomplete):
        Books.of(["a"]).take(cut)


def test_every_prefix_of_a_line_is_noticed() -> None:
    whole = line("a", input_tokens=12)
    for length in range(len(whole)):
        with pytest.raises(ResultsIncomplete):
            Books.of(["a"]).take(whole[:length])


def test_tokens_are_added_up_per_model() -> None:
    books = Books.of(["a", "b", "c", "d"])
    books.take(line("a", input_tokens=3, output_tokens=5, cache_read_input_tokens=None))
    books.take(line("b", input_tokens=4, output_tokens=1, cache_creation_input_tokens=7, new=1))
    books.take(line("c", "errored"))
    other = {"type": "succeeded", "message": {"model": "m2", "usage": {"input_tokens": 1}}}
    books.take(orjson.dumps({"custom_id": "d", "result": other}))
    assert books.as_usage() == {
        "claude-haiku-4-5": {
            "input_tokens": 7,
            "output_tokens": 6,
            "cache_creation_input_tokens": 7,
            "cache_read_input_tokens": 0,
        },
        "m2": {
            "input_tokens": 1,
            "output_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }
    assert orjson.loads(orjson.dumps(books.as_usage())) == books.as_usage()


def test_a_stranger_costs_nothing() -> None:
    books = Books.of(["a"])
    books.take(line("a", input_tokens=3))
    books.take(line("a", input_tokens=3))
    assert books.as_usage()["claude-haiku-4-5"]["input_tokens"] == 3
    assert books.as_counts().succeeded == 1


def test_characters_that_python_takes_for_line_ends_are_part_of_a_line() -> None:
    books = Books.of(["a"])
    message = {"model": "m", "usage": {}, "content": [{"type": "text", "text": "x\u2028y\u0085z"}]}
    books.take(
        orjson.dumps({"custom_id": "a", "result": {"type": "succeeded", "message": message}})
    )
    books.close()
