"""What the simulator records of each batch, and of each request paid for."""

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import httpx2
import orjson
import pytest

from penstock.simulator.batches.payments import describe_batch
from penstock.simulator.batches.store import Batch, PackedLines
from penstock.simulator.control import Control
from tests.contract.batch_api import call, create, delete, ended, params


def hash_of(text: str) -> str:
    """The hash of a request's params, computed as documented."""
    data = orjson.dumps(params(text), option=orjson.OPT_SORT_KEYS)
    return sha256(data).hexdigest()[:16]


def ask(control: Control, text: str, **fields: Any) -> int:
    """Make a live call; its status."""
    url = f"{control.base_url}/v1/messages"
    return call("POST", url, json=params(text, **fields)).status_code


def cancel(control: Control, batch_id: str) -> None:
    """Start to cancel a batch."""
    url = f"{control.base_url}/v1/messages/batches/{batch_id}/cancel"
    call("POST", url).raise_for_status()


def test_a_batch_is_described_before_its_lines_are_evaluated() -> None:
    """Their hashes are still missing."""
    at = datetime.now(UTC)
    ids, lines = (PackedLines([b"a", b"b"]) for _ in range(2))
    batch = Batch(id="b", created_at=at, custom_ids=ids, lines=lines, version="", ends_at=at)
    batch.hashes.append(255)
    found = describe_batch(batch, deleted=False, with_lines=True)
    assert found["lines"] == [["a", "00000000000000ff", None], ["b", None, None]]


def test_a_batch_is_described_with_what_was_paid(control: Control) -> None:
    """Only succeeded requests are paid, and none before the end."""
    batch_id = create(control, "a", "b [[sim expired]]", "c").json()["id"]
    (found,) = control.batches()
    assert found["created_at"]
    assert {key: found[key] for key in found.keys() - {"created_at", "counts"}} == {
        "id": batch_id,
        "status": "in_progress",
        "canceled": False,
        "deleted": False,
        "requests": 3,
        "paid": 0,
        "first_custom_id": "r-0",
    }
    control.end_batch(batch_id)
    (found,) = control.batches()
    assert (found["status"], found["paid"]) == ("ended", 2)
    assert found["counts"] == {
        "processing": 0,
        "succeeded": 2,
        "errored": 0,
        "canceled": 0,
        "expired": 1,
    }


def test_with_lines_describes_each_line_of_a_batch(control: Control) -> None:
    """In the order sent, by the hash of the params."""
    texts = ("a", "b [[sim expired]]", "c")
    batch_id = create(control, *texts).json()["id"]
    lines = control.batches(batch_id, with_lines=True)[0]["lines"]
    assert lines == [[f"r-{i}", hash_of(text), None] for i, text in enumerate(texts)]
    control.end_batch(batch_id)
    lines = control.batches(batch_id, with_lines=True)[0]["lines"]
    assert [outcome for _, _, outcome in lines] == ["succeeded", "expired", "succeeded"]


def test_canceled_and_deleted_batches_are_described(control: Control) -> None:
    """Oldest first. Deleting a batch removes its results alone."""
    deleted = ended(control, "a", "b")
    canceled = create(control, *"abcdefgh").json()["id"]
    cancel(control, canceled)
    control.end_batch(canceled)
    delete(control, deleted)
    first, second = control.batches(with_lines=True)
    assert (first["id"], first["deleted"], first["canceled"]) == (deleted, True, False)
    assert (first["paid"], first["lines"][1]) == (2, ["r-1", hash_of("b"), "succeeded"])
    assert (second["id"], second["deleted"], second["canceled"]) == (canceled, False, True)
    outcomes = [outcome for _, _, outcome in second["lines"]]
    assert (second["paid"], outcomes.count("succeeded"), outcomes.count("canceled")) == (2, 2, 6)


def test_one_batch_can_be_described_by_its_id(control: Control) -> None:
    """An unknown id returns none."""
    wanted = ended(control)
    ended(control)
    assert [each["id"] for each in control.batches(wanted)] == [wanted]
    assert control.batches("msgbatch_x") == []


def test_every_payment_for_a_request_is_counted(control: Control) -> None:
    """In batches and live. Failures cost nothing."""
    for _ in range(2):
        ended(control, "twice", "[[sim errored=api_error]]")
    create(control, "in progress")
    for text in ("live", "twice"):
        assert ask(control, text) == 200
    assert ask(control, "live", stream=True) == 200
    assert ask(control, "refused [[sim status=529]]") == 529
    assert control.paid() == {
        hash_of("twice"): {"batch": 2, "live": 1},
        hash_of("live"): {"batch": 0, "live": 2},
    }


def test_an_interrupted_live_answer_is_not_counted_as_paid(control: Control) -> None:
    """The client never had it."""
    with pytest.raises(httpx2.RemoteProtocolError):
        ask(control, "hello [[sim disconnect_after=1]]")
    assert control.paid() == {}
