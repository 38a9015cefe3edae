"""ResultClassifier: each line of a download is stored and counted once, whatever its neighbours.

tests/unit/tasks/batches/test_result_lines.py compares the fast path with the slow path.
"""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from penstock.batches.wire import wire_id
from tasks.batches.collect.classifier import ResultClassifier
from tasks.batches.collect.retry_policy import decide
from tasks.batches.collect.tally import FAILED, ResultTally
from tests.unit.tasks.batches.test_result_lines import NONCE, usual_line


def classifier(requests: int = 8, *, can_retry: bool = True) -> ResultClassifier:
    return ResultClassifier(
        ResultTally(NONCE, requests),
        lambda outcome: decide(outcome, round=0, max_retry_rounds=1, can_retry=can_retry),
    )


def line(index: int, kind: str, **more: Any) -> bytes:
    return orjson.dumps({"custom_id": wire_id(NONCE, index), "result": {"type": kind, **more}})


def failed(index: int, error_type: str) -> bytes:
    error = {"type": "error", "error": {"type": error_type, "message": "Words."}}
    return line(index, "errored", error=error)


def with_model(index: int, model: str) -> bytes:
    return usual_line(index).replace(b'"model":"m"', b'"model":"%s"' % model.encode())


def test_a_last_line_without_a_newline_is_stored_with_one() -> None:
    for last in (usual_line(1), line(1, "expired", note="rewritten"), failed(1, "not_found_error")):
        sorting = classifier(2, can_retry=False)
        stored = sorting.classify(usual_line(0) + b"\n" + last)
        assert stored == usual_line(0) + b"\n" + last + b"\n"
        assert (sorting.tally.missing, sorting.tally.extra_lines) == (0, 0)


def test_a_single_line_without_a_newline_is_stored() -> None:
    sorting = classifier(1)
    assert sorting.classify(usual_line(0)) == usual_line(0) + b"\n"
    assert sorting.tally.counts().succeeded == 1
    assert sorting.tally.tokens()["m"]["input_tokens"] == 3


@pytest.mark.parametrize("empty", [b"", b"\n", b"\n\n", b"  \r\n"])
def test_empty_lines_are_neither_stored_nor_counted(empty: bytes) -> None:
    sorting = classifier(1)
    assert sorting.classify(empty) == b""
    assert sorting.classify(empty + usual_line(0) + b"\n" + empty) == usual_line(0) + b"\n"
    assert sorting.tally.extra_lines == 0


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_block_that_takes_the_slow_path_after_all_counts_nothing_twice(bad: int) -> None:
    """The usage of one of its lines does not parse, whichever model it is of."""
    lines = [with_model(index, model) for index, model in enumerate("abc")]
    lines[bad] = lines[bad].replace(b'"input_tokens":3', b'"input_tokens":x')
    sorting = classifier(3)
    stored = sorting.classify(b"\n".join([*lines, b""])).splitlines()
    kept = [each for index, each in enumerate(lines) if index != bad]
    assert [each for index, each in enumerate(stored) if index != bad] == kept
    assert b"unreadable_result" in stored[bad]
    tally = sorting.tally
    assert (tally.counts().succeeded, tally.unreadable_lines, tally.missing) == (2, 1, 0)
    assert (tally.repeated_lines, tally.seen[bad]) == (0, FAILED)
    counted = {model: tokens["input_tokens"] for model, tokens in tally.tokens().items()}
    assert counted == {model: 3 for index, model in enumerate("abc") if index != bad}


@pytest.mark.parametrize("together", [True, False])
def test_a_repeated_line_counts_neither_its_result_nor_its_tokens_again(together: bool) -> None:
    sorting = classifier(1)
    twice = [usual_line(0) + b"\n", usual_line(0) + b"\n"]
    blocks = [b"".join(twice)] if together else twice
    assert b"".join(map(sorting.classify, blocks)) == twice[0]
    tally = sorting.tally
    assert (tally.counts().succeeded, tally.repeated_lines) == (1, 1)
    assert tally.tokens()["m"]["input_tokens"] == 3


def test_retried_lines_are_left_out_between_stored_ones() -> None:
    sorting = classifier(5)
    lines = [
        usual_line(0),
        failed(1, "overloaded_error"),
        usual_line(2),
        failed(3, "invalid_request_error"),
        line(4, "expired"),
    ]
    stored = sorting.classify(b"\n".join([*lines, b""]))
    assert sorted(stored.split(b"\n")) == sorted([b"", lines[0], lines[2], lines[3]])
    tally = sorting.tally
    assert (tally.retried, bytes(tally.seen)) == (2, bytes([1, 2, 1, 3, 2]))
    assert (tally.counts().succeeded, tally.counts().errored) == (2, 1)


def test_a_line_of_another_call_or_of_no_request_is_left_out() -> None:
    sorting = classifier(1)
    other = usual_line(0).replace(NONCE.encode(), b"zzzzzzzzzzzz")
    assert sorting.classify(other + b"\n" + usual_line(1) + b"\n") == b""
    assert (sorting.tally.unknown_lines, sorting.tally.missing) == (2, 1)
    assert sorting.tally.of_another_call
    assert sorting.tally.first_unknown_id == "zzzzzzzzzzzz-000000"
    assert sorting.tally.tokens() == {}


def test_the_slow_path_stores_a_line_in_the_usual_order_of_its_fields() -> None:
    sorting = classifier(1)
    fields = orjson.loads(usual_line(0))
    swapped = orjson.dumps({"result": fields["result"], "custom_id": fields["custom_id"]})
    assert sorting.classify(swapped + b"\n") == usual_line(0) + b"\n"
    assert sorting.tally.tokens()["m"]["input_tokens"] == 3


GATEWAYS: dict[str, Callable[[list[bytes]], bytes]] = {
    "joined": b"".join,
    "carriage returns": b"\r".join,
    "an array": lambda lines: b"[" + b",\n".join(lines) + b"]",
    "an array on one line": lambda lines: b"[" + b", ".join(lines) + b"]\n",
    "events": lambda lines: b"".join(b"data: " + line + b"\n\n" for line in lines),
}


@pytest.mark.parametrize("form", GATEWAYS)
def test_every_result_is_read_however_a_gateway_joins_the_lines(form: str) -> None:
    lines = [usual_line(0), failed(1, "invalid_request_error"), usual_line(2), usual_line(3)]
    reader = classifier(4)
    stored = reader.classify(GATEWAYS[form](lines))
    assert sorted(stored.splitlines()) == sorted(lines)
    assert (reader.tally.missing, reader.tally.extra_lines, reader.tally.unreadable_lines) == (
        0,
        0,
        0,
    )
    assert reader.tally.kinds == {"succeeded": 3, "errored": 1}


def test_a_line_that_is_cut_anywhere_does_not_take_the_next_one_with_it() -> None:
    lines = [usual_line(index) for index in range(3)]
    for cut in range(len(usual_line(0))):
        reader = classifier(3)
        stored = reader.classify(b"\n".join([lines[0][:cut] + lines[1], lines[2], b"\n"]))
        assert set(lines[1:]) <= set(stored.splitlines()), cut
        assert reader.tally.kinds["succeeded"] == 2
        assert reader.tally.repeated_lines == 0


def test_what_is_not_a_result_is_quoted() -> None:
    reader = classifier(2)
    reader.classify(b"<!DOCTYPE html>\n<p>Log in to the portal</p>\n")
    assert "begins: <!DOCTYPE html>" in str(reader.tally)
