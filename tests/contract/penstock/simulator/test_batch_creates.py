"""Creates that are refused, lost or delayed, and what the list shows of them."""

import json
import socket
from urllib.parse import urlsplit

import httpx2
import pytest

from penstock.simulator.control import Control
from penstock.testing import wait_until
from tests.contract.batch_api import call, create, delete, ended, get, lines, listed


def test_active_batches_limits_the_batches_in_progress(control: Control) -> None:
    """The 429 says when to retry; a create succeeds once a batch has ended."""
    control.configure(active_batches=2)
    first = create(control).json()["id"]
    assert create(control).status_code == 200
    refused = create(control)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert "limit of 2 batches in progress" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"] == "60"
    control.end_batch(first)
    assert create(control).status_code == 200
    assert control.stats()["batches_created"] == 3


def test_queued_requests_limits_the_requests_in_progress(control: Control) -> None:
    """Only batches that have not ended count, and the limit itself is allowed."""
    control.configure(queued_requests=5)
    first = create(control, "a", "b", "c").json()["id"]
    assert create(control, "a", "b", "c").status_code == 429
    assert create(control, "a", "b").status_code == 200
    refused = create(control, "a")
    assert refused.json()["error"]["message"].endswith("limit of 5 queued batch requests.")
    control.end_batch(first)
    assert create(control, "a", "b", "c").status_code == 200


@pytest.mark.parametrize("status", [400, 401, 402, 403, 413, 429, 500, 529])
def test_a_status_fault_refuses_one_create(control: Control, status: int) -> None:
    """No batch is created; the next create succeeds."""
    control.fault(status=status, path="/v1/messages/batches", method="POST", retry_after=3)
    refused = create(control)
    assert (refused.status_code, refused.headers["retry-after"]) == (status, "3")
    assert listed(control) == []
    assert create(control).status_code == 200


@pytest.mark.parametrize("status", [500, 504, 529])
def test_commit_then_status_creates_the_batch_and_returns_an_error(
    control: Control, status: int
) -> None:
    """The response alone does not show whether there is a batch."""
    control.fault(commit_then_status=status)
    assert create(control).status_code == status
    assert len(listed(control)) == 1


@pytest.mark.parametrize("early", [{"drop_before_commit": True}, {"status": 504}])
def test_commit_after_s_creates_the_batch_after_an_early_failure(
    control: Control, early: dict[str, int]
) -> None:
    """The batch is not listed when the client looks immediately."""
    control.fault(commit_after_s=0.3, **early)
    try:
        assert create(control).status_code == 504
    except httpx2.RemoteProtocolError:
        assert "drop_before_commit" in early
    assert listed(control) == []
    wait_until(lambda: len(listed(control)) == 1)


def test_a_delayed_create_returns_the_batch_to_a_client_that_waits(control: Control) -> None:
    """The response comes when the batch is created."""
    control.fault(commit_after_s=0.1)
    assert [create(control).json()["id"]] == listed(control)


def test_a_delayed_batch_is_created_after_the_client_timed_out(control: Control) -> None:
    """The disconnect of the client does not cancel it."""
    control.fault(commit_after_s=0.5)
    url = f"{control.base_url}/v1/messages/batches"
    with pytest.raises(httpx2.ReadTimeout):
        call("POST", url, json=lines("a"), timeout=0.2)
    assert listed(control) == []
    wait_until(lambda: len(listed(control)) == 1)


@pytest.mark.parametrize("then", [{"commit_then_drop": True}, {"commit_then_status": 500}])
def test_a_delayed_create_can_be_combined_with_a_lost_response(
    control: Control, then: dict[str, int]
) -> None:
    """The delay comes before the loss."""
    control.fault(commit_after_s=0.1, **then)
    try:
        assert create(control).status_code == 500
    except httpx2.RemoteProtocolError:
        assert "commit_then_drop" in then
    assert len(listed(control)) == 1


def test_a_reset_cancels_delayed_creates(control: Control) -> None:
    """Otherwise the batch would appear in the next test."""
    control.fault(commit_after_s=0.2, drop_before_commit=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        create(control)
    control.reset()
    control.fault(commit_after_s=0.4)
    made = create(control).json()["id"]
    assert [each["id"] for each in control.batches()] == [made]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_truncated_create_body_creates_no_batch(control: Control, chunked: bool) -> None:
    """Even if the part that was sent is valid JSON."""
    raw = json.dumps(lines("a", "b")).encode()
    head = (
        b"POST /v1/messages/batches HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n"
        b"anthropic-version: 2026-10-21\r\n"
    )
    size = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % (len(raw) + 1)
    body = b"%x\r\n%b\r\n" % (len(raw), raw) if chunked else raw
    address = urlsplit(control.base_url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head + size + b"\r\n\r\n" + body)
    wait_until(lambda: len(control.requests()) == 1)
    assert control.requests()[0]["body_bytes"] == len(raw)
    assert (listed(control), control.batches()) == ([], [])


def test_list_consistency_s_delays_the_list_alone(control: Control) -> None:
    """The new batch can be retrieved by its id and used as a cursor."""
    old = create(control).json()["id"]
    control.configure(list_consistency_s=3600)
    new = create(control).json()["id"]
    assert listed(control) == []
    assert get(control, f"/{new}").json()["id"] == new
    assert listed(control, before_id=new) == []
    control.configure(list_consistency_s=0)
    assert listed(control) == [new, old]
    control.configure(list_consistency_s=0.2)
    newest = create(control).json()["id"]
    wait_until(lambda: listed(control) == [newest, new, old])


def test_a_deleted_batch_is_not_a_valid_cursor(control: Control) -> None:
    """A client that kept its id has to start at the newest batch."""
    kept = create(control).json()["id"]
    gone = ended(control)
    newest = create(control).json()["id"]
    assert listed(control, before_id=gone) == [newest]
    assert listed(control, after_id=gone) == [kept]
    delete(control, gone)
    for cursor in ("before_id", "after_id"):
        refused = get(control, **{cursor: gone})
        assert refused.status_code == 404
        assert refused.json()["error"]["message"] == f"Message Batch {gone} not found."
    assert listed(control) == [newest, kept]


def test_before_id_returns_the_page_next_to_the_cursor(control: Control) -> None:
    """Newest first; ``has_more`` says whether there are newer ones."""
    made = [create(control).json()["id"] for _ in range(5)]
    page = get(control, before_id=made[0], limit=3).json()
    assert [each["id"] for each in page["data"]] == [made[3], made[2], made[1]]
    assert (page["has_more"], page["first_id"]) == (True, made[3])
    page = get(control, before_id=page["first_id"], limit=3).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([made[4]], False)
