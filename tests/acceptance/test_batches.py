"""Batches through real workers: create → poll → collect → finish."""

from collections.abc import Callable
from typing import Any

import pytest

from penstock import Client, NotEnded, NotFound, State
from penstock.batches.shard import Counts
from penstock.events import END, PAUSED, PROGRESS, QUEUED, RESUMED
from penstock.simulator.control import Control
from penstock.testing import wait_until

Body = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("penstock_workers", "penstock_control")


def lines(body: Body, count: int, prompt: str = "hello") -> list[dict[str, Any]]:
    return [{"custom_id": f"line-{i}", "params": body(f"{prompt} {i}")} for i in range(count)]


def ended(client: Client, id: str) -> list[Any]:
    return list(client.messages.batches.events(id, timeout=30))


def test_a_batch_runs_from_its_requests_to_its_results(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    batches = penstock_client.messages.batches
    job = batches.create(requests=lines(body, 50))
    assert job.processing_status == "in_progress"
    events = ended(penstock_client, job.id)
    assert [event.n for event in events] == list(range(1, len(events) + 1))
    assert events[0].type == QUEUED
    assert [e.data["step"] for e in events if e.type == PROGRESS] == ["create", "poll", "collect"]
    assert events[-1].type == END
    done = batches.retrieve(job.id)
    assert done.state is State.DONE
    assert done.processing_status == "ended"
    assert done.request_counts == Counts(succeeded=50)
    results = {line.custom_id: line.result for line in batches.results(job.id)}
    assert results.keys() == {f"line-{i}" for i in range(50)}
    assert all(result.message.content[0].text for result in results.values())
    assert penstock_control.stats()["batches_created"] == 1
    # The workers of the tests use the simulator.
    assert events[-1].data["simulated"] is True
    assert done.simulated


def test_every_way_a_line_can_end_is_counted(penstock_client: Client, body: Body) -> None:
    requests = lines(body, 10)
    requests[1]["params"] = body("[[sim expired]]")
    requests[2]["params"] = body("[[sim errored=overloaded_error]]")
    requests[4]["params"] = body(model="gpt-4")
    job = penstock_client.messages.batches.create(requests=requests)
    ended(penstock_client, job.id)
    done = penstock_client.messages.batches.retrieve(job.id)
    assert done.request_counts == Counts(succeeded=7, errored=2, expired=1)
    # what never passes has been tried in three rounds more
    assert [shard.requests for shard in done.shards] == [10, 2, 2, 2]
    result = {r.custom_id: r.result for r in penstock_client.messages.batches.results(job.id)}
    assert len(result) == 10
    assert result["line-2"].error.error.type == "overloaded_error"
    assert result["line-4"].error.error.type == "not_found_error"


def test_what_fails_for_a_passing_reason_is_sent_again(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    requests = lines(body, 12)
    requests[3]["params"] = body("late [[sim expired first=1]]")
    requests[7]["params"] = body("busy [[sim errored=overloaded_error first=1]]")
    job = penstock_client.messages.batches.create(requests=requests, shard_requests=5)
    ended(penstock_client, job.id)
    done = penstock_client.messages.batches.retrieve(job.id)
    assert done.request_counts == Counts(succeeded=12)
    results = penstock_client.messages.batches.results(job.id, order="submitted")
    assert [line.custom_id for line in results] == [f"line-{i}" for i in range(12)]
    assert all(sum(paid.values()) == 1 for paid in penstock_control.paid().values())
    assert len(penstock_control.paid()) == 12


def test_a_batch_that_was_canceled_outside_penstock_pauses_the_job(
    penstock_client: Client, body: Body
) -> None:
    batches = penstock_client.messages.batches
    requests = lines(body, 3)
    requests[0]["params"] = body("[[sim canceled first=1]]")
    job = batches.create(requests=requests)
    wait_until(lambda: batches.retrieve(job.id).paused)
    paused = batches.retrieve(job.id).paused
    assert paused is not None
    assert paused.type == "canceled_elsewhere"
    batches.resume(job.id)
    ended(penstock_client, job.id)
    assert batches.retrieve(job.id).request_counts == Counts(succeeded=3)


def test_a_canary_keeps_a_bad_job_from_being_sent(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    batches = penstock_client.messages.batches
    requests = lines(body, 20)
    requests[1]["params"] = body(model="claude-unknown") | {"stop_sequences": 5}
    job = batches.create(requests=requests, canary=2)
    wait_until(lambda: batches.retrieve(job.id).paused)
    assert penstock_control.stats()["batches_created"] == 0
    batches.cancel(job.id)
    ended(penstock_client, job.id)
    result = {line.custom_id: line.result.type for line in batches.results(job.id)}
    assert result["line-0"] == "succeeded"  # it was answered, and paid for
    assert len(result) == 20


def test_a_canary_that_passes_lets_the_rest_go(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    batches = penstock_client.messages.batches
    job = batches.create(requests=lines(body, 20), canary=2)
    ended(penstock_client, job.id)
    assert batches.retrieve(job.id).request_counts == Counts(succeeded=20)
    paid = penstock_control.paid().values()
    assert sum(each["live"] for each in paid) == 2
    assert sum(each["batch"] for each in paid) == 18


def test_a_job_stays_below_its_money_cap(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    batches = penstock_client.messages.batches
    job = batches.create(requests=lines(body, 3), max_cost_usd=0.000001)
    wait_until(lambda: batches.retrieve(job.id).paused)
    paused = batches.retrieve(job.id).paused
    assert paused is not None
    assert paused.type == "cost_limit"
    assert penstock_control.stats()["batches_created"] == 0
    batches.cancel(job.id)
    ended(penstock_client, job.id)
    assert batches.retrieve(job.id).request_counts == Counts(canceled=3)


def test_the_cost_is_half_of_the_live_price(penstock_client: Client, body: Body) -> None:
    job = penstock_client.messages.batches.create(requests=lines(body, 5))
    end = ended(penstock_client, job.id)[-1].data
    done = penstock_client.messages.batches.retrieve(job.id)
    # claude-haiku-4-5: 1 and 5 dollars for a million tokens in and out
    tokens = done.usage
    live = (tokens["input_tokens"] * 1 + tokens["output_tokens"] * 5) / 1_000_000
    costs = {"batch": live / 2, "live": live, "saved": live / 2, "estimated": 0.0}
    assert done.cost == {"currency": "USD", "excludes": []} | {
        name: pytest.approx(amount) for name, amount in costs.items()
    }
    assert done.cost == end["cost"]


def test_a_create_call_whose_answer_was_lost_is_not_made_again(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    penstock_control.fault(commit_then_drop=True, path="/v1/messages/batches")
    job = penstock_client.messages.batches.create(requests=lines(body, 7))
    ended(penstock_client, job.id)
    done = penstock_client.messages.batches.retrieve(job.id)
    assert done.request_counts == Counts(succeeded=7)
    assert penstock_control.stats()["batches_created"] == 1


def test_a_refused_create_call_is_made_again(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    penstock_control.fault(status=429, method="POST", path="/v1/messages/batches", times=2)
    job = penstock_client.messages.batches.create(requests=lines(body, 3))
    ended(penstock_client, job.id)
    assert penstock_client.messages.batches.retrieve(job.id).state is State.DONE
    assert penstock_control.stats()["batches_created"] == 1


def test_an_interrupted_download_of_results_is_repeated(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    penstock_control.fault(results_cut=2000)
    job = penstock_client.messages.batches.create(requests=lines(body, 30))
    ended(penstock_client, job.id)
    results = [line.custom_id for line in penstock_client.messages.batches.results(job.id)]
    assert sorted(results) == sorted(f"line-{i}" for i in range(30))
    stats = penstock_control.stats()
    assert stats["faults"] == {"results_cut": 1}
    assert stats["results_served"] == 1


def test_line_separators_inside_an_answer_do_not_split_it(
    penstock_client: Client, body: Body
) -> None:
    job = penstock_client.messages.batches.create(requests=lines(body, 5, "[[sim u2028]]"))
    ended(penstock_client, job.id)
    texts = [
        r.result.message.content[0].text for r in penstock_client.messages.batches.results(job.id)
    ]
    assert len(texts) == 5
    assert all("\u2028" in text for text in texts)


def test_a_refusal_for_good_pauses_the_job_until_it_is_resumed(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    batches = penstock_client.messages.batches
    penstock_control.fault(status=403, method="POST", path="/v1/messages/batches")
    job = batches.create(requests=lines(body, 3))
    wait_until(lambda: batches.retrieve(job.id).paused)
    paused = batches.retrieve(job.id).paused
    assert paused is not None
    assert paused.type == "permission_error"
    batches.resume(job.id)  # the operator has resolved it
    types = [event.type for event in ended(penstock_client, job.id)]
    assert [t for t in types if t in (PAUSED, RESUMED)] == [PAUSED, RESUMED]
    assert batches.retrieve(job.id).request_counts == Counts(succeeded=3)
    assert penstock_control.stats()["batches_created"] == 1


def test_cancel_reaches_the_api_and_ends_the_job(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    penstock_control.configure(batch_seconds=6)  # a canceled batch takes a quarter of that
    batches = penstock_client.messages.batches
    job = batches.create(requests=lines(body, 1))
    wait_until(lambda: batches.retrieve(job.id).shards[0].batch_id)
    assert batches.cancel(job.id).processing_status == "canceling"
    end = ended(penstock_client, job.id)[-1].data
    assert end["state"] == State.CANCELED
    assert penstock_control.stats()["batches_canceled"] == 1
    assert batches.retrieve(job.id).request_counts.processing == 0


def test_a_running_job_has_no_results_and_cannot_be_deleted(
    penstock_client: Client, penstock_control: Control, body: Body
) -> None:
    penstock_control.configure(batch_seconds=6)
    batches = penstock_client.messages.batches
    job = batches.create(requests=lines(body, 2))
    with pytest.raises(NotEnded, match="not ended"):
        list(batches.results(job.id))
    with pytest.raises(NotEnded, match="cancel it first"):
        batches.delete(job.id)
    batches.cancel(job.id)
    ended(penstock_client, job.id)
    batches.delete(job.id)
    with pytest.raises(NotFound):
        batches.retrieve(job.id)
    assert job.id not in [other.id for other in batches.list()]
