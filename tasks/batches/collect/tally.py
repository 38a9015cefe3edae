"""Counts a shard's results: which requests have one, and how they ended. Pure.

The API returns the results of a batch in any order, and a download can be interrupted anywhere. So
a download is complete only when every request has a line. Lines that belong to no request, and
further lines of a request that has one, are counted and left out.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from penstock.batches.shard import Counts
from penstock.batches.wire import NONCE_CHARS, WIRE_ID
from tasks.batches.collect.retry_policy import RetryDecision
from tasks.batches.result_lines import Outcome

#: What a byte of `ResultTally.seen` says about a request: it has no line yet, its result is final,
#: or it is retried.
NO_LINE: Final = 0
FINAL: Final = 1
RETRIED: Final = 2

_KINDS = ("succeeded", "errored", "canceled", "expired")


class ResultTally:
    """Counts the result lines of a shard as they are downloaded."""

    def __init__(self, nonce: str, requests: int) -> None:
        self.nonce = nonce
        self.requests = requests
        self.seen = bytearray(requests)  #: by index: `NO_LINE`, `FINAL` or `RETRIED`
        self.invalid_lines = 0  #: lines that are not results
        self.unknown_lines = 0  #: results whose wire id is not of this create call
        self.first_unknown_id = ""  #: the wire id of the first of them
        self.repeated_lines = 0  #: further lines of a request that has one
        self.kinds: Counter[str] = Counter()  #: result type → final results
        self.errors: Counter[str] = Counter()  #: error type → final results
        self.usage: dict[str, Counter[str]] = {}  #: model → tokens
        self.retried = 0  #: requests that are retried
        #: type and message of the first failure that the operator has to remedy
        self.pause: tuple[str, str] | None = None
        self.samples: dict[str, str] = {}  #: error type → the API's message of the first such line

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
        self.seen[index] = RETRIED if decision.retry else FINAL
        if outcome.error_type:
            self.samples.setdefault(outcome.error_type, outcome.message)
        if decision.retry:
            self.retried += 1
            if decision.pause and self.pause is None:
                self.pause = (decision.pause, outcome.message)
            return
        self.kinds[outcome.kind] += 1
        if outcome.kind == "succeeded":
            self.add_tokens(model, tokens)
        elif outcome.kind == "errored":
            self.errors[outcome.error_type or "unknown_error"] += 1

    def add_tokens(self, model: str, tokens: Mapping[str, int]) -> None:
        """Add the tokens of one or more succeeded requests."""
        self.usage.setdefault(model, Counter()).update(tokens)

    @property
    def of_another_call(self) -> bool:
        """Whether there are results, and all of them belong to another create call."""
        return bool(self.unknown_lines) and self.missing == self.requests

    @property
    def missing(self) -> int:
        """The number of requests without a line."""
        return self.seen.count(NO_LINE)

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

    def __str__(self) -> str:
        unmatched = self.unknown_lines + self.invalid_lines
        return (
            f"{self.missing} of {self.requests} requests have no result, "
            f"{unmatched} lines belong to no request, {self.repeated_lines} lines are repeated"
        )
