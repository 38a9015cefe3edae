"""The record of a request as a worker reads it, parsed once, into known types. Pure.

Whatever it contains, it can fail its own request only, and only once: `RecordFault` names the field
for the request's last event.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from penstock import json_text
from penstock.errors import InvalidRequest
from penstock.validation import MODEL_CHARACTERS, recorded_headers
from tasks.retry import ControlSignal
from tasks.streams.continuation import OnInterrupt
from tasks.streams.retry_budget import RetryBudget
from tasks.streams.usage import Usage

#: The fields that a worker reads after its claim.
FIELDS: Final = (
    "model",
    "typed",
    "on_interrupt",
    "deadline_ms",
    "started_ms",
    "renewed_ms",
    "attempts",
    "api_retries",
    "retry_budget",
    "spent",
    "open_output",
    "usage_estimated",
    "first_delta_ms",
    "headers",
    "base",
    "simulated",
)
_NUMBER: Final = re.compile("[0-9]{1,18}")


class RecordFault(ControlSignal):
    """A part of the record cannot be used. ``error``: for the record and the last event."""

    def __init__(self, part: str, problem: str) -> None:
        message = f"{part} {problem}; the request was not run any further, enqueue it again"
        super().__init__(message)
        self.error = {"type": "invalid_record", "message": message}


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What earlier workers and the producer have recorded."""

    on_interrupt: OnInterrupt
    deadline_ms: int | None
    started_ms: int
    claimed_ms: int
    attempts: int
    refusals: int
    usage: Usage
    #: output tokens in ``usage`` of the attempt of a lost worker; None: no attempt was lost
    open_output: int | None
    first_delta_ms: int | None
    headers: dict[str, str]
    trimmed: bool  #: the log no longer has its first events
    body: dict[str, Any] | None  #: None: it has expired
    simulated: bool  #: the simulator has answered it
    stalled: int  #: of the retry budget
    kept: int
    last_fault: str  #: of the retry budget
    interruption: str  #: type of the error that ended the last call; empty: its worker was lost

    @classmethod
    def parse(cls, values: dict[str, str], body: bytes | None) -> "RequestRecord":
        """Parse the fields (an empty string for one that is absent). Raises `RecordFault`."""
        attempts = _number(values, "attempts") or 0
        budget = _object(values, "retry_budget")
        return cls(
            on_interrupt=_on_interrupt(values["on_interrupt"]),
            deadline_ms=_number(values, "deadline_ms"),
            started_ms=_required(values, "started_ms"),
            claimed_ms=_required(values, "renewed_ms"),
            attempts=attempts,
            refusals=_number(values, "api_retries") or 0,
            usage=Usage(_object(values, "spent"), estimated=bool(values["usage_estimated"])),
            open_output=_number(values, "open_output"),
            first_delta_ms=_number(values, "first_delta_ms"),
            headers=_headers(values),
            trimmed=bool(values["base"]),
            body=None if body is None else _body(body),
            simulated=bool(values["simulated"]),
            # A worker of an earlier version wrote no budget: none of its attempts has advanced.
            stalled=_part(budget, "stalled", attempts),
            kept=_part(budget, "kept", 0),
            last_fault=_text(budget.get("last")),
            interruption=_text(budget.get("reason")),
        )

    def budget(self, max_attempts: int) -> RetryBudget:
        """Return the retry budget as it was left."""
        return RetryBudget(max_attempts, stalled=self.stalled, kept=self.kept, last=self.last_fault)


def _number(values: dict[str, str], name: str) -> int | None:
    text = values[name]
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise RecordFault(_field(name), f"is not a number: {text[:40]!r}")
    return int(text)


def _required(values: dict[str, str], name: str) -> int:
    number = _number(values, name)
    if number is None:
        raise RecordFault(_field(name), "is missing")
    return number


def _object(values: dict[str, str], name: str) -> dict[str, Any]:
    text = values[name]
    try:
        found = json_text.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RecordFault(_field(name), "is not a JSON object")
    return found


def _part(budget: dict[str, Any], name: str, default: int) -> int:
    part = budget.get(name, default)
    if type(part) is not int or part < 0:
        raise RecordFault(_field("retry_budget"), f"has no valid {name!r}")
    return part


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _headers(values: dict[str, str]) -> dict[str, str]:
    try:
        return recorded_headers(_object(values, "headers"))
    except InvalidRequest as error:
        raise RecordFault(_field("headers"), f"cannot be sent: {error}"[:200]) from None


def _on_interrupt(text: str) -> OnInterrupt:
    try:
        return OnInterrupt(text or OnInterrupt.CONTINUE)
    except ValueError:
        raise RecordFault(_field("on_interrupt"), f"is unknown: {text[:40]!r}") from None


def _body(raw: bytes) -> dict[str, Any]:
    try:
        body = json_text.loads(raw)
    except ValueError:
        raise RecordFault("the request's body", "is not JSON") from None
    if not isinstance(body, dict):
        raise RecordFault("the request's body", "is not a JSON object")
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if type(body.get(name)) is not kind:
            raise RecordFault("the request's body", f"has no valid {name!r}")
    if len(body["model"]) > MODEL_CHARACTERS:  # it becomes part of keys, and is shown
        raise RecordFault("the request's body", "has no valid 'model'")
    return body


def _field(name: str) -> str:
    return f"the record's field {name!r}"
