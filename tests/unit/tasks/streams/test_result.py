"""The last event of a stream, and what Celery and Flower show of it."""

from typing import Any

import pytest

from config.settings import WorkerSettings
from tasks.api.client import ApiProblem
from tasks.streams.claim import ClaimedRequest
from tasks.streams.publish.outbox import Outbox
from tasks.streams.result import end_event, ended, error_after_retries, minimal_end_event
from tasks.streams.usage import Usage


def claimed(**fields: Any) -> ClaimedRequest:
    """A request that was claimed 1000 ms after the epoch."""
    settings = WorkerSettings()
    outbox = Outbox(settings.keys, "r", worker="w", epoch=1, n=0, ttl_s=60, retention_s=60)
    request = ClaimedRequest(
        id="r",
        outbox=outbox,
        model="m",
        worker_losses=0,
        stored={},
        stored_body=None,
        settings=settings,
        started_ms=1_000,
    )
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def test_the_last_event_says_what_the_answer_took_and_what_it_cost() -> None:
    usage = Usage({"input_tokens": 3, "output_tokens": 5}, estimated=True)
    request = claimed(
        usage=usage, attempts=2, first_delta_ms=0, api_request_ids=["", "req_1", "", "req_2"]
    )
    end = end_event(request, "done", 1_250, {"message_stop": "lost"})
    assert end["usage"] == {"input_tokens": 3, "output_tokens": 5}
    assert end["usage_estimated"] is True
    assert (end["state"], end["attempts"], end["first_delta_ms"]) == ("done", 2, 0)
    assert end["total_ms"] == 250
    assert end["characters"] == 0
    assert end["api_request_ids"] == ["req_1", "req_2"]
    assert end["message_stop"] == "lost"
    assert "simulated" not in end


def test_an_answer_of_the_simulator_is_marked_in_its_last_event_and_its_result() -> None:
    end = end_event(claimed(simulated=True), "done", 1_000, {})
    assert end["simulated"] is True
    assert ended(end).summary["simulated"] is True


def test_a_minimal_last_event_claims_no_knowledge_of_the_usage() -> None:
    error = {"type": "internal_error", "message": "TypeError in the worker"}
    end = minimal_end_event(claimed(attempts=2), 1_700, error)
    assert (end["state"], end["usage"], end["usage_estimated"]) == ("failed", {}, True)
    assert (end["total_ms"], end["attempts"], end["error"]) == (700, 2, error)
    assert ended(end).reason == "internal_error"


@pytest.mark.parametrize("estimated", [True, False])
def test_a_result_has_the_facts_that_flower_shows(estimated: bool) -> None:
    usage = Usage({"input_tokens": 3, "output_tokens": 5}, estimated=estimated)
    result = ended(end_event(claimed(usage=usage, attempts=1), "done", 1_250, {}))
    assert (result.state, result.reason, result.countdown_s) == ("done", "", 0.0)
    assert result.summary == {
        "kind": "stream",
        "state": "done",
        "stop_reason": None,
        "input_tokens": 3,
        "output_tokens": 5,
        "first_delta_ms": None,
        "total_ms": 250,
        "attempts": 1,
        **({"usage_estimated": True} if estimated else {}),
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"type": "x", "message": "SECRET"}, "x"),
        ({"type": "x", "message": "SECRET", "status": 400}, "x (HTTP 400)"),
        ({"type": "x", "message": "SECRET", "request_id": "req_1"}, "x, request req_1"),
        (
            {"type": "x", "message": "SECRET", "status": 529, "request_id": "req_1"},
            "x (HTTP 529), request req_1",
        ),
    ],
)
def test_the_reason_of_a_failure_does_not_quote_the_api(error: dict[str, Any], reason: str) -> None:
    end = end_event(claimed(), "failed", 1_000, {"error": error})
    assert ended(end).reason == reason


def test_the_error_after_many_refusals_has_their_number() -> None:
    problem = ApiProblem("overloaded_error", "Overloaded", status=529, retryable=True)
    error = error_after_retries(problem, 20)
    assert error["message"].endswith("Overloaded (refused 20 times)")
    assert (error["type"], error["status"]) == ("overloaded_error", 529)
