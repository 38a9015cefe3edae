"""The simulator's message batches, used through the SDK."""

import json
import re
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse

from penstock.simulator.control import Control

MODEL = "claude-haiku-4-5"


def line(custom_id: str, text: str = "hello", **params: Any) -> Any:
    """A request of a batch."""
    message = {"role": "user", "content": text}
    return {
        "custom_id": custom_id,
        "params": {"model": MODEL, "max_tokens": 200, "messages": [message], **params},
    }


def create(sdk: anthropic.Anthropic, *lines: Any) -> MessageBatch:
    """Create a batch, of two requests unless others are given."""
    return sdk.messages.batches.create(requests=lines or [line("a"), line("b", "other")])


def results(
    sdk: anthropic.Anthropic, batch: MessageBatch
) -> dict[str, MessageBatchIndividualResponse]:
    """The results of a batch by custom_id."""
    return {each.custom_id: each for each in sdk.messages.batches.results(batch.id)}


def test_a_batch_goes_from_in_progress_to_ended(control: Control, sdk: anthropic.Anthropic) -> None:
    """All requests are processing until then."""
    batch = create(sdk)
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 2)
    assert (batch.results_url, batch.ended_at) == (None, None)
    assert (batch.expires_at - batch.created_at).total_seconds() == 24 * 3600
    control.end_batch(batch.id)
    batch = sdk.messages.batches.retrieve(batch.id)
    assert (batch.processing_status, batch.request_counts.succeeded) == ("ended", 2)
    assert (batch.results_url or "").startswith(control.base_url)
    stats = control.stats()
    assert (stats["batches_created"], stats["batch_requests_created"]) == (1, 2)


def test_a_batch_ends_after_batch_seconds(control: Control, sdk: anthropic.Anthropic) -> None:
    """Without any call of the control."""
    control.configure(batch_seconds=0.05)
    batch = create(sdk)
    while batch.processing_status != "ended":
        batch = sdk.messages.batches.retrieve(batch.id)
    assert control.requests()[-1]["status"] == 200


def test_a_batch_result_equals_the_answer_of_a_live_call(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Except for the service tier."""
    batch = create(sdk)
    control.end_batch(batch.id)
    found = results(sdk, batch)["a"].result
    assert found.type == "succeeded"
    alone = sdk.messages.create(
        model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "hello"}]
    )
    assert found.message.content == alone.content
    assert found.message.usage.service_tier == "batch"
    assert found.message.usage.output_tokens == alone.usage.output_tokens
    assert control.stats()["results_served"] == 1


def test_results_are_shuffled_in_a_stable_order(control: Control, sdk: anthropic.Anthropic) -> None:
    """Each line comes once."""
    asked = [f"r-{number}" for number in range(100)]
    batch = create(sdk, *(line(each, each) for each in asked))
    control.end_batch(batch.id)
    first, second = list(results(sdk, batch)), list(results(sdk, batch))
    assert sorted(first) == sorted(asked)
    assert first == second != asked


def test_invalid_params_are_errors_in_the_results(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Each in an envelope inside the result."""
    batch = create(
        sdk,
        line("good"),
        line("stream", stream=True),
        line("model", model="xyz"),
        line("tokens", max_tokens=0),
        line("sampling", temperature=1),
        line("directive", "[[sim nonsense=1]]"),
        {"custom_id": "empty", "params": {}},
        line("asked", "[[sim errored=overloaded_error]]"),
        line("late", "[[sim expired]]"),
        line("gone", "[[sim canceled]]"),
    )
    assert batch.request_counts.processing == 10
    control.end_batch(batch.id)
    counts = sdk.messages.batches.retrieve(batch.id).request_counts
    assert (counts.succeeded, counts.errored, counts.expired, counts.canceled) == (1, 7, 1, 1)
    found = {name: each.result for name, each in results(sdk, batch).items()}
    assert (found["late"].type, found["gone"].type) == ("expired", "canceled")
    errors = {
        name: f"{result.error.error.type}: {result.error.error.message}"
        for name, result in found.items()
        if result.type == "errored"
    }
    assert errors == {
        "stream": "invalid_request_error: "
        '"stream=True" is not supported in the Message Batches API',
        "model": "not_found_error: model: xyz",
        "tokens": "invalid_request_error: max_tokens: must be greater than or equal to 1",
        "sampling": "invalid_request_error: temperature: Extra inputs are not permitted",
        "directive": "invalid_request_error: [[sim]]: unknown key 'nonsense'",
        "empty": "invalid_request_error: model: Field required",
        "asked": "overloaded_error: Overloaded",
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "requests: Field required"),
        ({"requests": {}}, "requests: Input should be a valid list"),
        ({"requests": []}, "requests: List should have at least 1 item after validation, not 0"),
        (
            {"requests": [{"custom_id": "a", "params": {}}] * 100_001},
            "requests: List should have at most 100000 items after validation, not 100001",
        ),
        ({"requests": [5]}, "requests.0: Input should be a valid dictionary"),
        ({"requests": [{"params": {}}]}, "requests.0.custom_id: Field required"),
        ({"requests": [line("a"), {"custom_id": "b"}]}, "requests.1.params: Field required"),
        (
            {"requests": [line("a"), line("b c")]},
            "requests.1.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'",
        ),
        ({"requests": [line("")]}, "requests.0.custom_id: String should match pattern"),
        (
            {"requests": [line("x" * 65)]},
            "requests.0.custom_id: String should have at most 64 characters",
        ),
        (
            {"requests": [line("a"), line("b"), line("a")]},
            "requests: custom_id's must be unique within a batch. Duplicate custom_id found: a",
        ),
    ],
)
def test_an_invalid_batch_is_refused_on_creation(
    control: Control, sdk: anthropic.Anthropic, body: dict[str, Any], message: str
) -> None:
    """The error names the place of the request."""
    with pytest.raises(anthropic.BadRequestError, match=re.escape(message)):
        sdk.post("/v1/messages/batches", cast_to=object, body=body)
    assert control.stats()["batches_created"] == 0


def test_a_batch_over_256_mb_is_too_large(control: Control) -> None:
    """By one byte."""
    headers = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
    url = f"{control.base_url}/v1/messages/batches"
    piece = bytes(1_000_000)

    def body() -> Iterator[bytes]:
        for _ in range(256):
            yield piece
        yield b"x"

    answer = httpx2.post(url, headers=headers, content=body(), timeout=60)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


def test_a_canceled_batch_keeps_the_results_processed_so_far(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """It is canceling first, then ended. Canceling twice changes nothing."""
    batch = create(sdk, *(line(f"r-{number}") for number in range(8)))
    for _ in range(2):
        canceled = sdk.messages.batches.cancel(batch.id)
        assert canceled.processing_status == "canceling"
        assert canceled.cancel_initiated_at
        assert canceled.request_counts.processing == 8
    control.end_batch(batch.id)
    counts = sdk.messages.batches.retrieve(batch.id).request_counts
    assert (counts.succeeded, counts.canceled) == (2, 6)
    kinds = [each.result.type for each in sdk.messages.batches.results(batch.id)]
    assert kinds.count("canceled") == 6
    assert control.stats()["batches_canceled"] == 1


def test_batches_are_listed_newest_first(control: Control, sdk: anthropic.Anthropic) -> None:
    """Page by page, in both directions."""
    made = [create(sdk).id for _ in range(5)]
    assert [each.id for each in sdk.messages.batches.list(limit=2)] == made[::-1]
    page = sdk.messages.batches.list(limit=2, before_id=made[1])
    assert [each.id for each in page.data] == [made[3], made[2]]
    assert (page.has_more, page.first_id, page.last_id) == (True, made[3], made[2])
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.batches.list(after_id="msgbatch_x")
    for limit in (0, 1001):
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            sdk.messages.batches.list(limit=limit)
    with pytest.raises(anthropic.BadRequestError, match="Only one"):
        sdk.messages.batches.list(after_id=made[0], before_id=made[1])


def test_an_empty_list_of_batches_has_no_cursors(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """And no further page."""
    page = sdk.messages.batches.list()
    assert (page.data, page.has_more, page.first_id, page.last_id) == ([], False, None, None)


def test_only_an_ended_batch_can_be_deleted(control: Control, sdk: anthropic.Anthropic) -> None:
    """It is a 404 after that."""
    batch = create(sdk)
    with pytest.raises(anthropic.BadRequestError, match="In progress batches cannot be deleted"):
        sdk.messages.batches.delete(batch.id)
    control.end_batch(batch.id)
    assert sdk.messages.batches.delete(batch.id).type == "message_batch_deleted"
    for call in (sdk.messages.batches.retrieve, sdk.messages.batches.cancel):
        with pytest.raises(anthropic.NotFoundError, match=f"Message Batch {batch.id} not found"):
            call(batch.id)


def test_results_are_available_between_end_and_archive(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Not before, and not after."""
    batch = create(sdk)
    path = f"/v1/messages/batches/{batch.id}/results"
    with pytest.raises(anthropic.NotFoundError, match="has no available results"):
        sdk.get(path, cast_to=object)
    control.end_batch(batch.id)
    assert len(results(sdk, batch)) == 2
    control.archive_batch(batch.id)
    shown = sdk.messages.batches.retrieve(batch.id)
    assert (shown.results_url, shown.archived_at is None) == (None, False)
    with pytest.raises(anthropic.NotFoundError, match="has no available results"):
        sdk.get(path, cast_to=object)


def test_a_held_batch_is_in_progress_until_it_is_released(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Although it is due."""
    control.configure(batch_seconds=0.3)
    batch = create(sdk)
    control.hold_batch(batch.id)
    other = create(sdk)
    while sdk.messages.batches.retrieve(other.id).processing_status != "ended":
        assert sdk.messages.batches.retrieve(batch.id).processing_status == "in_progress"
    assert sdk.messages.batches.retrieve(batch.id).processing_status == "in_progress"
    control.release_batch(batch.id)
    assert sdk.messages.batches.retrieve(batch.id).processing_status == "ended"


@pytest.mark.parametrize(("fault", "made"), [("commit_then_drop", 1), ("drop_before_commit", 0)])
def test_a_create_can_lose_its_response(
    control: Control, sdk: anthropic.Anthropic, fault: str, made: int
) -> None:
    """The client cannot know whether there is a batch."""
    control.fault(**{fault: True})
    with pytest.raises(anthropic.APIConnectionError):
        create(sdk)
    assert len(sdk.messages.batches.list().data) == made
    assert control.requests()[0]["status"] == 0
    assert create(sdk).processing_status == "in_progress"


def test_results_cut_cuts_one_download_after_that_many_bytes(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """The next download is complete."""
    batch = create(sdk, *(line(f"r-{number}") for number in range(300)))
    control.end_batch(batch.id)
    control.fault(results_cut=100_000)
    received: list[bytes] = []
    path = f"/v1/messages/batches/{batch.id}/results"
    answer = sdk.get(path, cast_to=httpx2.Response, stream=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        received.extend(answer.iter_bytes())
    answer.close()
    assert len(b"".join(received)) == 100_000
    assert control.stats()["results_served"] == 0
    assert len(results(sdk, batch)) == 300


def test_a_status_fault_can_be_limited_to_a_path_and_a_method(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """Other requests succeed."""
    batch = create(sdk)
    control.fault(status=529, path="/v1/messages/batches/*", method="GET", retry_after=2)
    with pytest.raises(anthropic.OverloadedError) as refused:
        sdk.messages.batches.retrieve(batch.id)
    assert refused.value.response.headers["retry-after"] == "2"
    assert sdk.messages.batches.retrieve(batch.id).id == batch.id


def test_a_poll_has_retry_after_until_the_batch_has_ended(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """In seconds."""
    batch = create(sdk)
    raw = sdk.messages.batches.with_raw_response.retrieve(batch.id)
    assert raw.headers["retry-after"] == "10"
    control.end_batch(batch.id)
    raw = sdk.messages.batches.with_raw_response.retrieve(batch.id)
    assert "retry-after" not in raw.headers


def test_the_results_of_a_large_batch_are_complete(
    control: Control, sdk: anthropic.Anthropic
) -> None:
    """They are larger than a single write."""
    lines = [line(f"r-{number}", f"{number} " + "x" * 2000) for number in range(2000)]
    batch = create(sdk, *lines)
    control.end_batch(batch.id)
    path = f"/v1/messages/batches/{batch.id}/results"
    raw = sdk.get(path, cast_to=httpx2.Response)
    found = [json.loads(each) for each in raw.text.split("\n") if each]
    assert {each["custom_id"] for each in found} == {each["custom_id"] for each in lines}
    assert len({each["result"]["message"]["id"] for each in found}) == 2000
