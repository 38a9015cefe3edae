"""Results of the simulator's batches: each line's outcome, and faulty downloads."""

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
def test_errored_fails_a_line_with_any_error_type(control: Control, kind: str) -> None:
    """The error is in an envelope inside the result."""
    found = results(control, ended(control, f"[[sim errored={kind}]]"))["r-0"]
    assert (found["type"], found["error"]["type"]) == ("errored", "error")
    assert found["error"]["error"]["type"] == kind
    assert found["error"]["error"]["message"]


def test_error_message_sets_the_message_of_a_failed_line(control: Control) -> None:
    """``no_credit`` has the message of the API."""
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
def test_first_limits_how_often_a_line_fails(control: Control, asked: str, outcome: str) -> None:
    """The params are counted, whatever the custom_id and the batch."""
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
def test_stop_reason_applies_to_a_line(control: Control, reason: str) -> None:
    """The line has succeeded, for any stop reason."""
    found = results(control, ended(control, f"[[sim stop_reason={reason}]]"))["r-0"]
    assert (found["type"], found["message"]["stop_reason"]) == ("succeeded", reason)


def test_results_can_contain_the_line_ends_of_other_formats(control: Control) -> None:
    """In JSONL only a line feed ends a line."""
    batch_id = ended(control, "[[sim odd]]", "[[sim u2028]]", '[[sim text="a\\u0000b"]]')
    assert raw_results(control, batch_id).count(b"\n") == 3
    found = results(control, batch_id)
    texts = {name: each["message"]["content"][0]["text"] for name, each in found.items()}
    for odd in '\0\r\n\x0b\x0c\x1c\x85\u2028\u2029\ufeff"\\':
        assert odd in texts["r-0"]
    assert {"\u2028", "\x85"} <= set(texts["r-1"])
    assert texts["r-2"] == "a\0b"


def test_results_end_ends_the_body_properly_after_some_lines(control: Control, batch: str) -> None:
    """The lines count from either end."""
    whole = raw_results(control, batch).splitlines(keepends=True)
    for lines in (0, 7, -1):
        control.fault(results_end=lines)
        assert raw_results(control, batch) == b"".join(whole[:lines])
    assert raw_results(control, batch) == b"".join(whole)


@pytest.mark.parametrize("place", [0, 5, 19, -1])
def test_a_line_of_the_results_can_be_missing_or_duplicated(
    control: Control, batch: str, place: int
) -> None:
    """All other lines are unchanged."""
    whole = raw_results(control, batch).splitlines(keepends=True)
    control.fault(results_skip=place)
    left = raw_results(control, batch).splitlines(keepends=True)
    assert left == [line for line in whole if line != whole[place]]
    control.fault(results_double=place)
    assert raw_results(control, batch).splitlines(keepends=True) == [*whole, whole[place]]


def test_results_foreign_adds_a_line_of_an_unknown_custom_id(control: Control, batch: str) -> None:
    """The line is well formed."""
    whole = raw_results(control, batch).splitlines()
    control.fault(results_foreign=3)
    found = raw_results(control, batch).splitlines()
    assert json.loads(found.pop(3))["custom_id"] == "foreign"
    assert found == whole


def test_results_blank_adds_a_blank_line(control: Control, batch: str) -> None:
    """It comes between two others."""
    whole = raw_results(control, batch).splitlines()
    control.fault(results_blank=4)
    found = raw_results(control, batch).splitlines()
    assert found.pop(4) == b""
    assert found == whole


def test_crlf_ends_every_line_of_the_results_in_cr_lf(control: Control, batch: str) -> None:
    """Blank, foreign and duplicated lines as well."""
    whole = raw_results(control, batch)
    control.fault(crlf=True, path="*/results")
    assert raw_results(control, batch) == whole.replace(b"\n", b"\r\n")
    control.fault(crlf=True, results_blank=0, results_foreign=0, results_double=0)
    found = raw_results(control, batch)
    assert found.count(b"\r\n") == found.count(b"\n") == 23


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_chunk_sets_the_size_of_the_writes_of_results(
    control: Control, batch: str, size: int
) -> None:
    """Only the last one is smaller."""
    whole = raw_results(control, batch)
    control.fault(chunk=size, path=RESULTS.format("*"))
    with download(control, batch) as answer:
        chunks = list(answer.iter_raw())
    assert b"".join(chunks) == whole
    assert control.stats()["faults"] == {"chunk": 1}


@pytest.mark.parametrize("effect", [{}, {"chunk": 10}, {"results_skip": 0}, {"crlf": True}])
def test_results_cut_is_exact_with_any_other_fault(
    control: Control, batch: str, effect: dict[str, Any]
) -> None:
    """The body has no end."""
    control.fault(results_cut=1234, **effect)
    received: list[bytes] = []
    with download(control, batch) as answer, pytest.raises(httpx2.RemoteProtocolError):
        received.extend(answer.iter_raw())
    assert len(b"".join(received)) == 1234


def test_times_and_path_choose_the_downloads_of_one_batch(control: Control, batch: str) -> None:
    """The first two are affected, and no download of another batch."""
    other = ended(control)
    control.fault(results_end=0, times=2, path=RESULTS.format(batch))
    assert raw_results(control, other)
    assert [bool(raw_results(control, batch)) for _ in range(3)] == [False, False, True]


def test_results_lag_withholds_the_results_of_an_ended_batch(control: Control, batch: str) -> None:
    """There is no results_url, and the results are a 404."""
    control.fault(results_lag=True, times=2)
    shown = get(control, f"/{batch}").json()
    assert (shown["processing_status"], shown["results_url"]) == ("ended", None)
    assert shown["request_counts"]["succeeded"] == 20
    refused = get(control, f"/{batch}/results")
    assert (refused.status_code, refused.json()["error"]["type"]) == (404, "not_found_error")
    assert get(control, f"/{batch}").json()["results_url"]
    assert raw_results(control, batch)


def test_a_request_about_a_batch_in_progress_fires_no_results_fault(control: Control) -> None:
    """The fault waits for the results."""
    batch_id = create(control).json()["id"]
    control.fault(results_lag=True)
    for path in (f"/{batch_id}", f"/{batch_id}/results"):
        get(control, path)
    control.end_batch(batch_id)
    assert get(control, f"/{batch_id}").json()["results_url"] is None
