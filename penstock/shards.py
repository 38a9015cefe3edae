"""Shards: the parts of a batch job, each of which becomes one batch at the API; pure."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import orjson

#: Characters of a custom_id on the wire: 12 of the nonce, a hyphen, 6 digits.
WIRE_ID = 19


@dataclass(frozen=True, slots=True)
class Counts:
    """How many requests are in which state, as the API's ``request_counts`` names them."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.processing + other.processing,
            self.succeeded + other.succeeded,
            self.errored + other.errored,
            self.canceled + other.canceled,
            self.expired + other.expired,
        )

    @property
    def total(self) -> int:
        """All requests."""
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One batch at the API, as its record stands."""

    number: int  #: counted from 0
    state: str = "planned"  #: planned · sending · in_progress · ended · collected
    requests: int = 0  #: how many requests it holds
    size: int = 0  #: their bytes as the create call will carry them
    first: int = 0  #: position in the job of its first request
    last: int = 0  #: position in the job of its last request
    model: str = ""  #: of its first request
    betas: tuple[str, ...] = ()  #: beta headers, which hold for a whole batch
    max_output: dict[str, int] = field(default_factory=dict)  #: model → sum of ``max_tokens``
    round: int = 0  #: 0: the job's own lines; above: lines that are tried again
    spool: str = ""  #: name of its stored request lines
    results: str = ""  #: name of its stored result lines, once they are complete
    ordered: bool = False  #: whether these stand in the order of the requests

    batch_id: str = ""  #: the API's id, once it is known
    sure: bool = False  #: the API told us this id; otherwise the batch was found by its likeness
    created_ms: int = 0  #: when the API created the batch
    ended_ms: int = 0  #: when it was first seen to have ended
    polls: int = 0  #: how often its status was asked for
    failures: int = 0  #: refusals of the API in a row
    counts: Counts = field(default_factory=Counts)  #: of the requests that are not tried again
    again: int = 0  #: requests that went on to the shard of the next round
    #: model → tokens of its succeeded requests, by the API's names
    usage: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)  #: error type → how many lines ended so

    nonce: str = ""  #: beginning of its custom_ids on the wire, new for every create call
    sent_ms: int = 0  #: when the create call was last sent
    over_ms: int = 0  #: when that call was known to be over; 0: its worker never told
    watermark: str = ""  #: the newest batch the API knew of before that call
    watermark_ms: int = 0  #: when that one was created; 0: there was none
    missed_ms: int = 0  #: when the API's list first had no batch that fits, after all waiting
    rejected: tuple[str, ...] = ()  #: batches that looked like it and were not

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the JSON of the record."""
        stored = orjson.loads(raw)
        # A newer version may have added fields: they are left alone, as everywhere.
        known = _known(cls, stored)
        known["counts"] = Counts(**_known(Counts, stored["counts"]))
        for name in ("betas", "rejected"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)

    def encode(self) -> bytes:
        """The JSON for the record."""
        return orjson.dumps(asdict(self))

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)


def _known(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
