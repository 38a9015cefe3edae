"""How the run of a stream ended, for its log, Celery and Flower. Pure."""

from dataclasses import dataclass, field
from typing import Any

from tasks.api.client import ApiProblem
from tasks.retry import ControlSignal
from tasks.streams.claim import ClaimedRequest


class RequestFailed(ControlSignal):
    """The request cannot be answered. ``error``: for its record and its last event."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["type"])
        self.error = error


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one run. It never holds a prompt or an answer."""

    state: str  #: done · failed · canceled · retry · skipped
    summary: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  #: why the run failed, was skipped, or is retried
    countdown_s: float = 0.0  #: seconds until the retry


def end_event(
    request: ClaimedRequest, state: str, ended_ms: int, more: dict[str, Any]
) -> dict[str, Any]:
    """The data of a stream's last event."""
    message = request.message
    text = {"characters": len(message.text), "text_sha256": message.text_sha256}
    return {
        "state": state,
        "stop_reason": message.stop_reason,
        "stop_details": message.stop_details,
        "usage": request.usage.total,
        "usage_estimated": request.usage.estimated,
        **(text if request.replayed else {}),
        "first_delta_ms": request.first_delta_ms,
        "total_ms": ended_ms - request.started_ms,
        "attempts": request.attempts,
        "api_request_ids": [id for id in request.api_request_ids if id],
        **({"simulated": True} if request.simulated else {}),
        **more,
    }


def minimal_end_event(
    request: ClaimedRequest, ended_ms: int, error: dict[str, Any]
) -> dict[str, Any]:
    """The data of the last event of a stream whose own events cannot be written."""
    return {
        "state": "failed",
        "stop_reason": None,
        "usage": {},
        "usage_estimated": True,
        "first_delta_ms": None,
        "total_ms": ended_ms - request.started_ms,
        "attempts": request.attempts,
        "error": error,
    }


def ended(end: dict[str, Any]) -> RunResult:
    """The result of a stream that has ended with this event."""
    summary = {
        "kind": "stream",
        **({"simulated": True} if end.get("simulated") else {}),
        "state": str(end["state"]),
        "stop_reason": end["stop_reason"],
        "input_tokens": end["usage"].get("input_tokens"),
        "output_tokens": end["usage"].get("output_tokens"),
        "first_delta_ms": end["first_delta_ms"],
        "total_ms": end["total_ms"],
        "attempts": end["attempts"],
    }
    if end["usage_estimated"]:
        summary["usage_estimated"] = True
    return RunResult(end["state"], summary, reason=_reason(end.get("error")))


def error_after_retries(problem: ApiProblem, retries: int) -> dict[str, Any]:
    """The error of a request that the API has refused too often."""
    error = problem.as_error()
    error["message"] += f" (refused {retries} times)"
    return error


def _reason(error: dict[str, Any] | None) -> str:
    """Why a stream failed, without the API's message: it may quote the request."""
    if error is None:
        return ""
    status = f" (HTTP {error['status']})" if "status" in error else ""
    request = f", request {error['request_id']}" if "request_id" in error else ""
    return f"{error['type']}{status}{request}"
