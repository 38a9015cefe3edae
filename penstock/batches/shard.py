"""Shards: the parts of a batch job, each of which becomes one batch at the API; pure."""

from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, Self

import orjson

from penstock.queue import names


class ShardState(StrEnum):
    """How far a shard is. One of live calls (a canary) goes from planned to collected."""

    PLANNED = "planned"  #: not sent yet
    SENDING = "sending"  #: a create call has begun and its answer is not known
    IN_PROGRESS = "in_progress"  #: its batch is at the API
    ENDED = "ended"  #: its batch has ended; the results are not collected
    COLLECTED = "collected"  #: every request has its result, or is in the next round's shard


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

    number: int  #: counted from 0; a shard of the next round has its parent's plus the job's shards
    state: str = ShardState.PLANNED  #: a `ShardState`; a newer worker may write another value
    requests: int = 0  #: how many requests it holds
    size: int = 0  #: bytes of the create call's body
    first: int = 0  #: position in the job of its first request
    last: int = 0  #: position in the job of its last request; others may lie between
    model: str = ""  #: of its first request
    betas: tuple[str, ...] = ()  #: beta headers, which hold for a whole batch
    live: bool = False  #: its requests are live calls, at the live price
    round: int = 0  #: 0: the job's own lines; above: lines that are tried again
    #: model → [bytes of its requests, sum of their ``max_tokens``], for the money cap
    size_by_model: dict[str, list[int]] = field(default_factory=dict)

    spool: str = ""  #: its chunks are ``requests-<spool>`` and ``ids-<spool>``
    request_chunks: int = 0
    id_chunks: int = 0
    results: str = ""  #: name of its result chunks, once they are complete; empty: none are stored
    result_chunks: int = 0
    live_results: str = ""  #: name of the result chunks of live calls that are not all made yet
    result_lines: int = 0  #: lines in these; fewer than requests where some are tried again
    #: the result of every request of a shard that has no results
    uniform_result: dict[str, Any] | None = None

    batch_id: str = ""  #: the API's id, once it is known
    confirmed: bool = (
        False  #: the API told us this id; otherwise the batch was found by its likeness
    )
    created_ms: int = 0  #: when the API created the batch
    ended_ms: int = 0  #: when it was first seen to have ended
    collected_ms: int = 0  #: when its results were complete
    polls: int = 0  #: how often its status was asked for
    failures: int = 0  #: refusals of the API in a row
    not_found_count: int = 0  #: how often the API did not know its batch
    refetches: int = 0  #: downloads of results that did not match the requests
    counts: Counts = field(default_factory=Counts)  #: of the requests that are not tried again
    retried: int = 0  #: requests that went on to the shard of the next round
    #: model → tokens of its succeeded requests, by the API's names
    usage: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)  #: error type → how many lines ended so

    # The intent: what is known of the create call that is out, or was the last one.
    nonce: str = ""  #: beginning of its custom_ids on the wire
    workspace: str = ""  #: organization and workspace that the call is made for
    watermark: str = ""  #: the newest batch the API knew of before the call
    watermark_ms: int = 0  #: when that one was created; 0: there was none
    sent_ms: int = 0  #: when its last bytes were about to go out; 0: they never were
    over_ms: int = 0  #: when the call was known to be over; 0: its worker never told
    missed_ms: int = 0  #: when the API's list first had no batch that fits, after all waiting
    rejected: tuple[str, ...] = ()  #: batches that looked like it and were not
    abandoned_nonces: tuple[str, ...] = ()  #: nonces of calls that were given up

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the JSON of the record."""
        # A newer version may have added fields: they are left alone, as everywhere.
        known = _known(cls, orjson.loads(raw))
        known["counts"] = Counts(**_known(Counts, known.get("counts", {})))
        for name in ("betas", "rejected", "abandoned_nonces"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)

    def encode(self) -> bytes:
        """The JSON for the record."""
        return orjson.dumps(asdict(self))

    def evolve(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def chunk_names(self) -> tuple[str, ...]:
        """The names of all its chunks."""
        names = (f"requests-{self.spool}", f"ids-{self.spool}", self.results, self.live_results)
        return tuple(name for name in names if name)

    @property
    def step(self) -> str:
        """The task that takes the shard on from here."""
        return _STEPS[self.state]


_STEPS: Final[dict[str, str]] = {
    ShardState.PLANNED: names.BATCH_CREATE,
    ShardState.SENDING: names.BATCH_CREATE,
    ShardState.IN_PROGRESS: names.BATCH_POLL,
    ShardState.ENDED: names.BATCH_COLLECT,
    ShardState.COLLECTED: names.BATCH_FINISH,
}


def _known(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    ours = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in ours}
