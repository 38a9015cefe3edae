"""Counts a shard's results: which requests have one, and how they ended. Pure.

The API returns the results of a batch in any order, and a download can be interrupted anywhere. So
a download is complete only when every request has a line. Lines that belong to no request, and
further lines of a request that has one, are counted and left out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from penstock.batches.shard import Counts
from penstock.batches.unreadable import MISSING, UNREADABLE, errored, result_line
from penstock.batches.wire import LINE_HEAD, NONCE_CHARS, WIRE_ID, wire_id
from tasks.batches.collect.retry_policy import RetryDecision
from tasks.batches.result_lines import Outcome

#: What a byte of `ResultTally.seen` says about a request: it has no line yet, it succeeded, it is
#: retried, or it has failed for good.
NO_LINE: Final = 0
SUCCEEDED: Final = 1
RETRIED: Final = 2
FAILED: Final = 3

_KINDS = ("succeeded", "errored", "canceled", "expired")

#: Maximum number of error types that are counted apart, so that the record of a shard stays small.
_MAX_ERROR_TYPES: Final = 50
_OTHER_ERRORS: Final = "other_errors"


class ResultTally:
    """Counts the result lines of a shard as they are downloaded."""

    def __init__(self, nonce: str, requests: int) -> None:
        self.nonce = nonce
        self.requests = requests
        #: by index: `NO_LINE`, `SUCCEEDED`, `RETRIED` or `FAILED`
        self.seen = bytearray(requests)
        self.invalid_lines = 0  #: lines that do not name a request
        self.unreadable_lines = 0  #: lines that name a request and are not its result
        self.unknown_lines = 0  #: results whose wire id is not of this create call
        self.first_unknown_id = ""  #: the wire id of the first of them
        self.repeated_lines = 0  #: further lines of a request that has one
        self.kinds: Counter[str] = Counter()  #: result type → final results
        self.errors: Counter[str] = Counter()  #: error type → final results
        self.usage: dict[str, Counter[str]] = {}  #: model → tokens
        self.retried = 0  #: requests that are retried
        #: type and message of the first failure that the operator has to remedy
        self.pause: tuple[str, str] | None = None
        #: error type that is counted apart → message of the first such line
        self.samples: dict[str, str] = {}
        #: requests whose result does not show what they cost: it is missing or unreadable
        self.unknown_costs = 0

    def index_of(self, custom_id: str) -> int | None:
        """Return the index of the request with this wire id.

        None: no request has this wire id, or its request has a line; the line is counted as an
        extra one.
        """
        digits = custom_id[NONCE_CHARS + 1 :]
        if (
            len(custom_id) != WIRE_ID
            or not custom_id.startswith(f"{self.nonce}-")
            or not (digits.isascii() and digits.isdigit())
            or int(digits) >= self.requests
        ):
            self.unknown_lines += 1
            self.first_unknown_id = self.first_unknown_id or custom_id
            return None
        if self.seen[int(digits)]:
            self.repeated_lines += 1
            return None
        return int(digits)

    def enter(
        self,
        index: int,
        outcome: Outcome,
        decision: RetryDecision,
        model: str,
        tokens: Mapping[str, int],
    ) -> None:
        """Count the line of request ``index``, which has none yet."""
        succeeded = outcome.kind == "succeeded"
        self.seen[index] = RETRIED if decision.retry else SUCCEEDED if succeeded else FAILED
        self.unreadable_lines += outcome.error_type == UNREADABLE
        self.unknown_costs += outcome.error_type == UNREADABLE
        if decision.retry:
            self.retried += 1
            if decision.pause and self.pause is None:
                self.pause = (decision.pause, outcome.message)
            return
        self.kinds[outcome.kind] += 1
        if succeeded:
            self.add_tokens(model, tokens)
        elif outcome.kind == "errored":
            message = outcome.message if outcome.error_type else ""
            self._add_error(outcome.error_type or "unknown_error", message)
        elif outcome.kind not in _KINDS:
            self._add_error(outcome.kind)

    def add_tokens(self, model: str, tokens: Mapping[str, int]) -> None:
        """Add the tokens of one or more succeeded requests."""
        self.usage.setdefault(model, Counter()).update(tokens)

    def missing_lines(self, batch_id: str) -> Iterator[bytes]:
        """Count every request without a line as errored, and yield a line for each."""
        result = errored(MISSING, f"the results of {batch_id} have no line of this request")
        index = -1
        while (index := self.seen.find(NO_LINE, index + 1)) >= 0:
            self.seen[index] = FAILED
            self.kinds["errored"] += 1
            self._add_error(MISSING)
            self.unknown_costs += 1
            yield result_line(LINE_HEAD + wire_id(self.nonce, index).encode(), result)

    @property
    def of_another_call(self) -> bool:
        """Whether there are results, and all of them belong to another create call."""
        return bool(self.unknown_lines) and self.missing == self.requests

    @property
    def missing(self) -> int:
        """The number of requests without a line."""
        return self.seen.count(NO_LINE)

    @property
    def failed(self) -> int:
        """The number of requests that have failed for good."""
        return self.seen.count(FAILED)

    @property
    def extra_lines(self) -> int:
        """The number of lines that are left out."""
        return self.invalid_lines + self.unknown_lines + self.repeated_lines

    def counts(self) -> Counts:
        """Return how the requests with a final result ended.

        A result type that this version does not know counts as errored; its line is stored as is.
        """
        known = {kind: self.kinds[kind] for kind in _KINDS}
        known["errored"] += sum(self.kinds.values()) - sum(known.values())
        return Counts(**known)

    def tokens(self) -> dict[str, dict[str, int]]:
        """Return the tokens of the succeeded requests, by model."""
        return {model: dict(tokens) for model, tokens in self.usage.items()}

    @property
    def lines(self) -> int:
        """The number of requests that have a line."""
        return self.requests - self.missing

    def __str__(self) -> str:
        unmatched = self.unknown_lines + self.invalid_lines
        return (
            f"{self.missing} of {self.requests} requests have no result, "
            f"{unmatched} lines belong to no request, {self.repeated_lines} lines are repeated, "
            f"{self.unreadable_lines} lines cannot be read"
        )

    def _add_error(self, type: str, message: str = "") -> None:
        if type not in self.errors and len(self.errors) >= _MAX_ERROR_TYPES:
            type = _OTHER_ERRORS
        self.errors[type] += 1
        if message:
            self.samples.setdefault(type, message)
