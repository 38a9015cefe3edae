"""The account of one shard's results: which requests have been answered, how, at what cost; pure.

The results of a batch come in any order, and a download can break off anywhere. They are only
taken for whole when every request has a line; what belongs to no request, or comes twice, is
counted and left out.
"""

from collections import Counter
from collections.abc import Mapping

from penstock.batches.shard import Counts
from penstock.batches.wire import WIRE_ID
from tasks.batches.collect.retry_policy import RetryDecision
from tasks.batches.result_lines import Outcome

_NONCE_END = 12
_KINDS = ("succeeded", "errored", "canceled", "expired")


class ResultTally:
    """Keeps account of the result lines of a shard as they pass."""

    def __init__(self, nonce: str, requests: int) -> None:
        self.nonce = nonce
        self.requests = requests
        #: By index: 0 no line yet, 1 its result is final, 2 it is sent again.
        self.seen = bytearray(requests)
        self.invalid_lines = 0  #: lines that are no results
        self.unknown_lines = 0  #: results of no request of ours
        self.first_unknown_id = ""  #: the wire id of the first of them
        self.repeated_lines = 0  #: further lines of a request that had its own
        self.kinds: Counter[str] = Counter()  #: result type → final lines
        self.errors: Counter[str] = Counter()  #: error type → final lines
        self.usage: dict[str, Counter[str]] = {}  #: model → tokens
        self.retried = 0  #: requests that are sent again
        self.pause: tuple[str, str] | None = None  #: type and words of what has to be cured first
        self.samples: dict[str, str] = {}  #: error type → the API's words on the first such line

    def index_of(self, custom_id: str) -> int | None:
        """The index of the request with this wire id that has no line yet. None: the line is one
        too many; it is counted as that."""
        digits = custom_id[_NONCE_END + 1 :]
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
        """Enter the line of request ``index``, which had none."""
        self.seen[index] = 2 if decision.retry else 1
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
        """Add tokens that were used."""
        self.usage.setdefault(model, Counter()).update(tokens)

    @property
    def of_another_call(self) -> bool:
        """Whether there are results, and all of them are of another create call."""
        return bool(self.unknown_lines) and self.missing == self.requests

    @property
    def missing(self) -> int:
        """Requests that have no line."""
        return self.seen.count(0)

    @property
    def extra_lines(self) -> int:
        """Lines that are one too many."""
        return self.invalid_lines + self.unknown_lines + self.repeated_lines

    def counts(self) -> Counts:
        """How the requests ended whose results are final. A result type that is new to us is an
        error here; its line says what it is."""
        known = {kind: self.kinds[kind] for kind in _KINDS}
        known["errored"] += sum(self.kinds.values()) - sum(known.values())
        return Counts(**known)

    def tokens(self) -> dict[str, dict[str, int]]:
        """Model → tokens."""
        return {model: dict(spent) for model, spent in self.usage.items()}

    def __str__(self) -> str:
        extra = self.unknown_lines + self.invalid_lines
        return (
            f"{self.missing} of {self.requests} requests without a line, "
            f"{extra} lines of no request, {self.repeated_lines} doubled"
        )
