"""Results of the simulator's batches: outcomes line by line, and downloads that go wrong."""

import json
from typing import Any

import httpx2
import pytest

from penstock.simulator.control import Control
from tests.contract.batch_api import create, download, ended, get, raw_results, results

RESULTS = "/v1/messages/batches/{}/results"


@pytest.fixture
def batch(control: Control) -> str:
    """An ended batch of 20 requests."""
    return ended(control, *(f"text {number}" for number in range(20)))


@pytest.mark.parametrize(
    "kind",
    [
        "overloaded_error",
        "api_error",
        "timeout_error",
        "rate_limit_error",
        "invalid_request_error",
        "billing_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "an_error_of_tomorrow",
    ],
)
def test_a_line_can_be_any_error(control: Control, kind: str) -> None:
    """In an envelope inside the result."""
    found = results(control, ended(control, f"[[sim errored={kind}]]"))["r-0"]
    assert (found["type"], found["error"]["type"]) == ("errored", "error")
    assert found["error"]["error"]["type"] == kind
    assert found["error"]["error"]["message"]


def test_an_error_can_have_words_of_its_own(control: Control) -> None:
    """And an account without credit has the API's."""
    texts = ('[[sim errored=api_error error_message="So \\"it\\" is."]]', "[[sim no_credit]]")
    found = results(control, ended(control, *texts))
    assert found["r-0"]["error"]["error"] == {"type": "api_error", "message": 'So "it" is.'}
    error = found["r-1"]["error"]["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("Your credit balance is too low to access the Anthropic API")


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        ("errored=overloaded_error", "errored"),
        ("no_credit", "errored"),
        ("expired", "expired"),
        ("canceled", "canceled"),
    ],
)
def test_an_outcome_can_pass(control: Control, asked: str, outcome: str) -> None:
    """By the params, whatever the custom_id and the batch."""
    text = f"hello [[sim {asked} first=2]]"
    for _ in range(2):
        found = results(control, ended(control, "other", text))
        assert (found["r-0"]["type"], found["r-1"]["type"]) == ("succeeded", outcome)
    again = results(control, ended(control, text))["r-0"]
    assert again["type"] == "succeeded"
    plain = results(control, ended(control, "hello"))["r-0"]
    assert again["message"]["content"] == plain["message"]["content"]
    other = results(control, ended(control, f"{text} more"))["r-0"]
    assert other["type"] == outcome


@pytest.mark.parametrize("reason", ["pause_turn", "max_tokens", "refusal"])
def test_a_line_can_stop_for_any_reason(control: Control, reason: str) -> None:
    """It has succeeded all the same."""
    found = results(control, ended(control, f"[[sim stop_reason={reason}]]"))["r-0"]
    assert (found["type"], found["message"]["stop_reason"]) == ("succeeded", reason)


def test_a_text_can_hold_what_ends_a_line_elsewhere(control: Control) -> None:
    """Not in JSONL, where only a line feed does."""
    batch_id = ended(control, "[[sim odd]]", "[[sim u2028]]", '[[sim text="a\\u0000b"]]')
    assert raw_results(control, batch_id).count(b"\n") == 3
    found = results(control, batch_id)
    texts = {name: each["message"]["content"][0]["text"] for name, each in found.items()}
    for odd in '\0\r\n\x0b\x0c\x1c\x85\u2028\u2029\ufeff"\\':
        assert odd in texts["r-0"]
    assert {"\u2028", "\x85"} <= set(texts["r-1"])
    assert texts["r-2"] == "a\0b"


def test_results_can_end_early_as_if_that_was_all(control: Control, batch: str) -> None:
    """At the end of a line; counted from either end."""
    whole = raw_results(control, batch).splitlines(keepends=True)
    for lines in (0, 7, -1):
        control.fault(results_end=lines)
        assert raw_results(control, batch) == b"".join(whole[:lines])
    assert raw_results(control, batch) == b"".join(whole)


@pytest.mark.parametrize("place", [0, 5, 19, -1])
def test_a_line_can_be_missing_or_come_twice(control: Control, batch: str, place: int) -> None:
    """The rest is as it was."""
    whole = raw_results(control, batch).splitlines(keepends=True)
    control.fault(results_skip=place)
    left = raw_results(control, batch).splitlines(keepends=True)
    assert left == [line for line in whole if line != whole[place]]
    control.fault(results_double=place)
    assert raw_results(control, batch).splitlines(keepends=True) == [*whole, whole[place]]


def test_a_line_can_be_of_nobody(control: Control, batch: str) -> None:
    """It is one more, and well formed."""
    whole = raw_results(control, batch).splitlines()
    control.fault(results_foreign=3)
    found = raw_results(control, batch).splitlines()
    assert json.loads(found.pop(3))["custom_id"] == "foreign"
    assert found == whole


def test_a_line_can_be_blank(control: Control, batch: str) -> None:
    """Between two others."""
    whole = raw_results(control, batch).splitlines()
    control.fault(results_blank=4)
    found = raw_results(control, batch).splitlines()
    assert found.pop(4) == b""
    assert found == whole


def test_lines_can_end_in_cr_lf(control: Control, batch: str) -> None:
    """Blank, foreign and doubled ones too."""
    whole = raw_results(control, batch)
    control.fault(crlf=True, path="*/results")
    assert raw_results(control, batch) == whole.replace(b"\n", b"\r\n")
    control.fault(crlf=True, results_blank=0, results_foreign=0, results_double=0)
    found = raw_results(control, batch)
    assert found.count(b"\r\n") == found.count(b"\n") == 23


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_results_can_come_in_odd_chunks(control: Control, batch: str, size: int) -> None:
    """Of that many bytes, and one of the rest."""
    whole = raw_results(control, batch)
    control.fault(chunk=size, path=RESULTS.format("*"))
    with download(control, batch) as answer:
        chunks = list(answer.iter_raw())
    assert b"".join(chunks) == whole
    assert control.stats()["faults"] == {"chunk": 1}


@pytest.mark.parametrize("effect", [{}, {"chunk": 10}, {"results_skip": 0}, {"crlf": True}])
def test_a_cut_is_at_its_byte_whatever_else_happens(
    control: Control, batch: str, effect: dict[str, Any]
) -> None:
    """The body has no end."""
    control.fault(results_cut=1234, **effect)
    received: list[bytes] = []
    with download(control, batch) as answer, pytest.raises(httpx2.RemoteProtocolError):
        received.extend(answer.iter_raw())
    assert len(b"".join(received)) == 1234


def test_a_fault_can_meet_some_downloads_of_one_batch(control: Control, batch: str) -> None:
    """The first two, not those of another batch."""
    other = ended(control)
    control.fault(results_end=0, times=2, path=RESULTS.format(batch))
    assert raw_results(control, other)
    assert [bool(raw_results(control, batch)) for _ in range(3)] == [False, False, True]


def test_results_may_be_late(control: Control, batch: str) -> None:
    """The batch has ended, and there is no way to them yet."""
    control.fault(results_lag=True, times=2)
    shown = get(control, f"/{batch}").json()
    assert (shown["processing_status"], shown["results_url"]) == ("ended", None)
    assert shown["request_counts"]["succeeded"] == 20
    refused = get(control, f"/{batch}/results")
    assert (refused.status_code, refused.json()["error"]["type"]) == (404, "not_found_error")
    assert get(control, f"/{batch}").json()["results_url"]
    assert raw_results(control, batch)


def test_a_look_at_a_batch_in_progress_uses_up_no_fault(control: Control) -> None:
    """It waits for the results."""
    batch_id = create(control).json()["id"]
    control.fault(results_lag=True)
    for path in (f"/{batch_id}", f"/{batch_id}/results"):
        get(control, path)
    control.end_batch(batch_id)
    assert get(control, f"/{batch_id}").json()["results_url"] is None
