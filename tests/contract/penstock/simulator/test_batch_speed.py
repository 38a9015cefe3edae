"""The options for batches of benchmark size. They change no outcome."""

from typing import Any

import pytest

from penstock.simulator.control import Control
from penstock.testing import wait_until
from tests.contract.batch_api import call, create, ended, lines, raw_results, results

TEXTS = (
    "plain",
    "[[sim expired]]",
    "[[sim errored=api_error]]",
    "[[sim canceled]]",
    '[[sim text="as asked"]]',
    "[[sim nonsense]]",
    "[[sim expired first=1]]",
)


def without_message_ids(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out what differs between two batches."""
    for result in found.values():
        result.get("message", {}).pop("id", None)
    return found


@pytest.mark.parametrize("option", ["prerender", "quick_create"])
def test_prerender_and_quick_create_do_not_change_the_results(
    control: Control, option: str
) -> None:
    """Errors and directives included."""
    usual = without_message_ids(results(control, ended(control, *TEXTS)))
    control.reset()
    control.configure(**{option: 1})
    assert without_message_ids(results(control, ended(control, *TEXTS))) == usual


def test_prerendered_results_are_canceled_as_others_are(control: Control) -> None:
    """Except for those that were processed."""
    control.configure(prerender=1)
    batch_id = create(control, *"abcdefgh").json()["id"]
    call("POST", f"{control.base_url}/v1/messages/batches/{batch_id}/cancel").raise_for_status()
    control.end_batch(batch_id)
    kinds = [each["type"] for each in results(control, batch_id).values()]
    assert (kinds.count("succeeded"), kinds.count("canceled")) == (2, 6)


@pytest.mark.parametrize("size", [1, 16, 1000])
def test_batch_answer_bytes_sets_the_size_of_an_answer(control: Control, size: int) -> None:
    """The text begins with the hash of its request; a directive's text is unchanged."""
    control.configure(batch_answer_bytes=size)
    batch_id = ended(control, *TEXTS)
    found = results(control, batch_id)
    message = found["r-0"]["message"]
    (block,) = message["content"]
    assert len(block["text"]) == size
    hashes = [line[1] for line in control.batches(batch_id, with_lines=True)[0]["lines"]]
    assert block["text"].startswith(hashes[0][:size])
    assert message["id"].startswith("msg_")
    assert message["usage"]["output_tokens"] == size // 4 + 1
    assert message["usage"]["input_tokens"] > 20
    assert found["r-4"]["message"]["content"][0]["text"] == "as asked"
    assert [found[f"r-{place}"]["type"] for place in (1, 2, 3)] == [
        "expired",
        "errored",
        "canceled",
    ]


def test_quick_create_parses_bodies_that_it_cannot_scan(control: Control) -> None:
    """And refuses invalid ones."""
    control.configure(quick_create=1)
    url = f"{control.base_url}/v1/messages/batches"
    body = lines("a", "b")
    assert call("POST", url, json=body).json()["request_counts"]["processing"] == 2
    body["requests"][1]["custom_id"] = "r-0"
    refused = call("POST", url, json=body)
    assert refused.status_code == 400
    assert "must be unique" in refused.json()["error"]["message"]


def test_a_batch_of_100_000_requests_ends(control: Control) -> None:
    """Each request has its line."""
    control.configure(quick_create=1, prerender=1, batch_answer_bytes=20, batch_seconds=0)
    batch_id = create(control, *["x"] * 100_000).json()["id"]
    wait_until(lambda: control.batches(batch_id)[0]["status"] == "ended")
    assert raw_results(control, batch_id).count(b"\n") == 100_000
    assert [each["batch"] for each in control.paid().values()] == [100_000]
