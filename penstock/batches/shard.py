"""The record of a shard: a part of a batch job that becomes one batch at the API; pure."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, Self

from penstock import json_text
from penstock.api_limits import MAX_BATCH_REQUESTS
from penstock.errors import RecordUnreadable
from penstock.queue import names
from penstock.spool.names import is_chunk_name, is_chunk_suffix
from penstock.validation import is_beta


class ShardState(StrEnum):
    """How far a shard is. One of live calls (a canary) goes from planned to collected."""

    PLANNED = "planned"  #: not sent yet
    SENDING = "sending"  #: a create call has begun and its answer is not known
    IN_PROGRESS = "in_progress"  #: its batch is at the API
    ENDED = "ended"  #: its batch has ended; the results are not collected
    COLLECTED = "collected"  #: every request has its result, or is in the next round's shard


#: In place of the state in a record that cannot be read. It is never stored.
UNREADABLE_RECORD: Final = "unreadable"


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of requests by outcome, with the names of the API's ``request_counts``."""

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
        """The number of all requests."""
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The record of one batch at the API, or of the live calls of a canary. Times are in ms."""

    #: counted from 0; a retry shard has its parent's plus the number of the job's first shards
    number: int
    state: str = ShardState.PLANNED  #: a `ShardState`; a newer worker may write another value
    requests: int = 0  #: number of its requests
    size: int = 0  #: bytes of the create call's body
    first: int = 0  #: position in the job of its first request
    last: int = 0  #: position in the job of its last request; other shards may have some in between
    model: str = ""  #: of its first request
    betas: tuple[str, ...] = ()  #: beta headers of the batch
    live: bool = False  #: its requests are live calls, at the live price
    round: int = 0  #: how often its requests have been retried
    #: model → [most input tokens of its requests, sum of their ``max_tokens``, requests that can
    #: fill the context window], for the cost cap; an earlier version had bytes, and two numbers
    size_by_model: dict[str, list[int]] = field(default_factory=dict)

    spool: str = ""  #: its chunks are ``requests-<spool>`` and ``ids-<spool>``
    request_chunks: int = 0
    id_chunks: int = 0
    results: str = ""  #: name of its result chunks once they are complete; empty: there are none
    result_chunks: int = 0
    live_results: str = ""  #: name of the result chunks of live calls until all are answered
    #: index of a canary's request → live calls that were made for it and have no answer
    live_calls: dict[str, int] = field(default_factory=dict)
    live_calls_cost: int = 0  #: the most that those calls can have cost, in millionths of a dollar
    result_lines: int = 0  #: lines in its result chunks; fewer than requests if some are retried
    #: the result of every request, if the shard has no result chunks
    uniform_result: dict[str, Any] | None = None

    failed_requests: str = ""  #: name of the chunks with the requests that failed; empty: none are
    failed_chunks: int = 0

    batch_id: str = ""  #: the API's id of its batch, once known
    confirmed: bool = False  #: the API returned this id; if not, the batch was found in the list
    simulated: bool = False  #: its batch is the simulator's: the results are invented
    created_ms: int = 0  #: when the API created the batch
    ended_ms: int = 0  #: when it was first seen to have ended
    collected_ms: int = 0  #: when its results were complete
    polls: int = 0  #: how often its status was read
    failures: int = 0  #: calls that the API refused, in a row
    step_errors: int = 0  #: how often its step failed with an error not foreseen, in a row
    not_found_count: int = 0  #: how often the API did not know its batch, in a row
    not_found_ms: int = 0  #: when the API first did not know its batch or the list, in a row
    refetches: int = 0  #: downloads of results that did not match the requests
    counts: Counts = field(default_factory=Counts)  #: of the requests that are not retried
    retried: int = 0  #: requests that were moved to the retry shard
    #: model → tokens of its succeeded requests, by the API's names
    usage: dict[str, dict[str, int]] = field(default_factory=dict)
    #: error type → number of requests that ended in it
    errors: dict[str, int] = field(default_factory=dict)

    # The intent: what is known of the create call in flight, or of the last one.
    nonce: str = ""  #: beginning of its wire ids
    workspace: str = ""  #: organization and workspace of the call
    watermark: str = ""  #: the newest batch in the API's list before the call
    watermark_ms: int = 0  #: when that batch was created; 0: there was none
    sent_ms: int = 0  #: when its last bytes were about to be sent; 0: they were not
    over_ms: int = 0  #: when the call was known to be over; 0: its worker did not report it
    lost: str = ""  #: what came in place of the response that names the batch
    missed_ms: int = 0  #: when the list first had no matching batch after all waiting
    #: when the API created the batch of an abandoned call at the latest; 0: unknown
    until_ms: int = 0
    rejected: tuple[str, ...] = ()  #: batches that matched and turned out to be others
    abandoned_nonces: tuple[str, ...] = ()  #: nonces of abandoned calls

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the JSON of a record. Raises `RecordUnreadable`, which names the field."""
        try:
            found = json_text.loads(raw)
        except ValueError as error:
            raise RecordUnreadable(f"the record of a shard is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise RecordUnreadable("the record of a shard is not an object")
        # Fields that a newer version has added are ignored.
        known = _known(cls, found)
        counts = known.get("counts", {})
        _check(isinstance(counts, dict), "counts")
        _check(all(isinstance(count, int) for count in counts.values()), "counts")
        known["counts"] = Counts(**_known(Counts, counts))
        for name in ("betas", "rejected", "abandoned_nonces"):
            _check(isinstance(known.get(name, []), list), name)
            known[name] = tuple(known.get(name, ()))
        _check("number" in known, "number")
        for name, value in known.items():
            _check(isinstance(value, _TYPES[name]), name)
        for name, is_valid in _FORMS.items():
            if name in known and not is_valid(known[name]):
                raise RecordUnreadable(f"the record of a shard has an invalid {name!r}")
        return cls(**known)

    @classmethod
    def parse_or_placeholder(cls, raw: bytes, number: int) -> Self:
        """Read the JSON of a record; of an unreadable one, only the number is known.

        Its state is `UNREADABLE_RECORD`. For wake-ups and status alone: the worker that claims the
        shard reports what is wrong.
        """
        try:
            return cls.parse(raw)
        except RecordUnreadable:
            return cls(number=number, state=UNREADABLE_RECORD)

    def encode(self) -> bytes:
        """Return the JSON of the record."""
        return json_text.dumps(asdict(self))

    def evolve(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @property
    def request_chunk_name(self) -> str:
        """The name of the chunks with its requests."""
        return f"requests-{self.spool}"

    @property
    def id_chunk_name(self) -> str:
        """The name of the chunks with the positions and custom_ids of its requests."""
        return f"ids-{self.spool}"

    @property
    def chunk_names(self) -> tuple[str, ...]:
        """The names of all its chunks."""
        names = (self.request_chunk_name, self.id_chunk_name, self.results, self.live_results)
        return tuple(name for name in (*names, self.failed_requests) if name)

    @property
    def keeps_all_requests(self) -> bool:
        """Whether all its requests are kept after its job has ended, since they have no success
        of their own: for `retry_failed`."""
        failed = self.counts.succeeded < self.requests
        return self.uniform_result is not None or (self.live and failed)

    @property
    def step(self) -> str:
        """The name of the task that the shard needs next; the first, if its state is unknown."""
        return _STEPS.get(self.state, names.BATCH_CREATE)

    @property
    def is_known(self) -> bool:
        """Whether this version knows its state: a newer worker may have written another one."""
        return self.state in _STEPS


def usage_by_model(shards: Iterable[Shard]) -> dict[str, Counter[str]]:
    """Add up the tokens of shards, by model."""
    usage: dict[str, Counter[str]] = {}
    for shard in shards:
        for model, tokens in shard.usage.items():
            usage.setdefault(model, Counter()).update(tokens)
    return usage


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


def _check(valid: bool, name: str) -> None:
    if not valid:
        raise RecordUnreadable(f"the record of a shard has another type in its field {name!r}")


def _optional(form: Callable[[str], object]) -> Callable[[str], bool]:
    return lambda value: not value or bool(form(value))


def _each(form: Callable[[str], object]) -> Callable[[tuple[Any, ...]], bool]:
    return lambda values: all(isinstance(value, str) and form(value) for value in values)


def _up_to(limit: int) -> Callable[[int], bool]:
    return lambda value: 0 <= value <= limit


#: The API's id of a batch. It becomes part of an address, so it has no ``/``, ``?`` or ``%``.
_BATCH_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:-]{0,127}").fullmatch
#: The beginning of wire ids. It becomes part of the body of a create call, which is not encoded.
_NONCE: Final = re.compile(r"[A-Za-z0-9]{1,32}").fullmatch

#: Field of a record → whether its value is one that becomes part of a path, a key, an address, a
#: header or a body, or the size of something in memory. Every producer can write a record.
_FORMS: Final[dict[str, Callable[[Any], bool]]] = {
    "number": _up_to(10**15),
    "requests": _up_to(MAX_BATCH_REQUESTS),
    "spool": _optional(is_chunk_suffix),
    "results": _optional(is_chunk_name),
    "live_results": _optional(is_chunk_name),
    "failed_requests": _optional(is_chunk_name),
    "batch_id": _optional(_BATCH_ID),
    "watermark": _optional(_BATCH_ID),
    "rejected": _each(_BATCH_ID),
    "nonce": _optional(_NONCE),
    "abandoned_nonces": _each(_NONCE),
    "betas": _each(is_beta),
}

#: Field of a record → what its value may be. The defaults have the types of the fields.
_TYPES: Final[dict[str, Any]] = {
    each.name: str if each.name == "state" else type(getattr(Shard(number=0), each.name))
    for each in fields(Shard)
} | {"uniform_result": (dict, type(None))}
