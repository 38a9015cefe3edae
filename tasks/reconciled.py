"""The books of one shard's results: which requests have been answered, how, and at what cost; pure.

The results of a batch come in any order, and a download can break off anywhere. They are only
taken for whole when every request has exactly one line and no line belongs to none.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from penstock.shards import Counts

#: The parts of ``usage`` that are paid for, as the API names them.
TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)


class ResultsIncomplete(Exception):
    """The results do not match the requests."""


@dataclass(slots=True)
class Books:
    """Keeps account of result lines as they pass."""

    expected: set[str]  #: custom_ids that have no line yet
    counts: Counter[str] = field(default_factory=Counter)
    usage: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    strangers: int = 0  #: lines of no request, or of one that had its line already

    @classmethod
    def of(cls, custom_ids: Iterable[str]) -> "Books":
        """Books for a shard with these requests."""
        return cls(set(custom_ids))

    def take(self, line: bytes) -> None:
        """Enter one line. Raises `ResultsIncomplete` for one that was cut."""
        try:
            fields = orjson.loads(line)
            custom_id, result = fields["custom_id"], fields["result"]
            kind = result["type"]
            known = custom_id in self.expected
            message = result["message"] if kind == "succeeded" else {}
            model, used = message.get("model", ""), message.get("usage") or {}
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ResultsIncomplete("a result line was cut") from error
        if not known:
            self.strangers += 1
            return
        self.expected.remove(custom_id)
        self.counts[kind] += 1
        if kind == "succeeded":
            spent = self.usage[model]
            for name in TOKENS:
                spent[name] += used.get(name) or 0

    def close(self) -> None:
        """Raise `ResultsIncomplete` unless every request has its one line."""
        if self.expected or self.strangers:
            raise ResultsIncomplete(
                f"{len(self.expected)} requests without a line, "
                f"{self.strangers} lines without a request"
            )

    def as_counts(self) -> Counts:
        """How the requests ended."""
        known = {
            name: self.counts[name] for name in ("succeeded", "errored", "canceled", "expired")
        }
        return Counts(**known)

    def as_usage(self) -> dict[str, dict[str, int]]:
        """Model → tokens."""
        return {model: dict(spent) for model, spent in self.usage.items()}
