"""Decides whether an interrupted answer is resumed once more. Pure.

Every call that was sent may be billed. An answer that advances with each call is worth completing;
one that does not is given up after a few calls, and after the second if the fault is deterministic:
the same error after the same part of the answer.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tasks.api.retry import REFUSALS

#: Input tokens that cost as much as one output token, at the prices of every current model.
_INPUT_PER_OUTPUT: Final = 5
#: Maximum calls for one answer, however far each of them advances it.
MAX_CALLS: Final = 200


@dataclass(frozen=True, slots=True)
class Fault:
    """How a call was interrupted."""

    error: dict[str, Any]  #: ``type`` and ``message``, for the record and the last event
    retryable: bool  #: whether resuming may succeed
    #: what had been received, by which a repetition is recognised; None: nothing was received, so
    #: that nothing distinguishes a deterministic fault from an outage
    place: tuple[int, ...] | None
    name: str = ""  #: of the fault, without what differs from call to call; empty: its message


@dataclass(frozen=True, slots=True)
class Cost:
    """What the calls of an answer have cost so far, in tokens."""

    calls: int
    input_tokens: int
    output_tokens: int
    max_tokens: int  #: of the request

    @classmethod
    def of(cls, usage: Mapping[str, Any], *, calls: int, max_tokens: int) -> "Cost":
        """Read the cost from the API's usage, which may lack fields or be malformed."""
        kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        inputs = sum(_count(usage.get(kind)) for kind in kinds)
        return cls(calls, inputs, _count(usage.get("output_tokens")), max_tokens)

    def exceeds(self, answers: int) -> bool:
        """Whether it is more than ``answers`` calls that each write ``max_tokens``."""
        calls = max(self.calls, 1)
        spent = self.input_tokens + _INPUT_PER_OUTPUT * self.output_tokens
        complete = self.input_tokens + _INPUT_PER_OUTPUT * self.max_tokens * calls
        return spent * calls > answers * complete


class RetryBudget:
    """Counts the calls for one answer since it last advanced."""

    def __init__(
        self, max_attempts: int, *, stalled: int = 0, kept: int = 0, last: str = ""
    ) -> None:
        """``stalled``, ``kept`` and ``last``: as another worker has left them."""
        self._max_attempts = max_attempts
        self.stalled = stalled  #: calls since the answer last advanced
        self.kept = kept  #: most characters that a resumed answer has continued
        self.last = last  #: digest of the last fault and its place; empty: none that may repeat

    def start(self) -> None:
        """Count a call."""
        self.stalled += 1

    def undo(self) -> None:
        """Forget the last call: the API refused it."""
        self.stalled -= 1

    def exhausted(self, fault: Fault, *, kept: int, cost: Cost) -> str:
        """Return why the answer is not resumed after ``fault``; empty if it is.

        ``kept``: the characters that the next call would continue, 0 if it would start again.
        Only these are lasting progress, and refill the budget.
        """
        if self._is_repeated(fault):
            return "the same fault occurred at the same place in two calls in a row"
        if kept > self.kept:
            self.stalled, self.kept = 0, kept
        if self.stalled >= self._max_attempts:
            return f"{self.stalled} calls without progress (PENSTOCK_MAX_ATTEMPTS)"
        if cost.calls >= MAX_CALLS:
            return f"{cost.calls} calls"
        if cost.exceeds(self._max_attempts):
            return "its calls have cost more than PENSTOCK_MAX_ATTEMPTS complete answers"
        return ""

    def _is_repeated(self, fault: Fault) -> bool:
        kind, name = str(fault.error.get("type")), fault.name or str(fault.error.get("message"))
        last, self.last = self.last, ""
        if fault.place is None or kind in REFUSALS:  # they pass with time, whatever the request is
            return False
        self.last = _digest(kind, name, fault.place)
        return self.last == last


def _digest(*parts: Any) -> str:
    """Return a short form of a fault, whose name may be long, for the record."""
    return hashlib.blake2s(repr(parts).encode(errors="replace"), digest_size=8).hexdigest()


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
