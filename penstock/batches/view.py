"""What a producer sees of a batch job, in the shape of the SDK's ``MessageBatch``; pure."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from penstock.batches.jobs import Job
from penstock.batches.shard import Counts, Shard, ShardState
from penstock.states import State

#: States of a shard whose batch is at the API, or may be.
_ACTIVE = (ShardState.SENDING, ShardState.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Notice:
    """Why a job is paused, or what somebody has to look at."""

    type: str
    message: str
    since: datetime

    @classmethod
    def of(cls, raw: dict[str, Any] | None) -> Self | None:
        """What a field of the record says; None where there is nothing."""
        return cls(raw["type"], raw["message"], _time(raw["at_ms"])) if raw else None


@dataclass(frozen=True, slots=True)
class Budget:
    """The money cap of a job, in US dollars."""

    cap_usd: float
    spent_usd: float  #: by what is collected
    reserved_usd: float  #: the most that what is at the API now can cost

    @classmethod
    def of(cls, money: dict[str, int]) -> Self | None:
        """What the record says, in millionths; None for a job without a cap."""
        if "cap" not in money:
            return None
        reserved = sum(amount for name, amount in money.items() if name.startswith("reserved:"))
        millionths = (money["cap"], money.get("spent", 0), reserved)
        return cls(*(amount / 1_000_000 for amount in millionths))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. The API tells nothing of a batch before it has ended, so shards are all
    there is to count."""

    shards: int  #: all of them; those that try lines again are added as they come
    ended: int  #: that the API has done with
    collected: int  #: whose results can be read
    active: int  #: that are at the API now
    rounds: int  #: how often lines had to be tried again, so far

    @classmethod
    def of(cls, shards: tuple[Shard, ...]) -> Self:
        """The progress that these shards have made."""
        states = Counter(shard.state for shard in shards)
        return cls(
            shards=len(shards),
            ended=states[ShardState.ENDED] + states[ShardState.COLLECTED],
            collected=states[ShardState.COLLECTED],
            active=sum(states[state] for state in _ACTIVE),
            rounds=max((shard.round for shard in shards), default=0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch job. The first ten fields are those of the API's message batch."""

    id: str
    type: str = "message_batch"
    processing_status: str  #: in_progress · canceling · ended
    request_counts: Counts  #: of requests whose result is there; the others are ``processing``
    created_at: datetime
    ended_at: datetime | None
    expires_at: None = None  #: a job does not expire: lines that do are tried again
    cancel_initiated_at: datetime | None
    archived_at: None = None
    results_url: None = None  #: ``batches.results(id)`` has them
    state: State  #: queued · running · done · failed · canceled
    cancel_initiated: bool
    paused: Notice | None  #: nothing more is sent until the job is resumed
    alert: Notice | None  #: somebody has to look; the job goes on
    waiting_for_canary: bool  #: waits for its canary
    model: str  #: of the first request
    progress: Progress
    shards: tuple[Shard, ...]
    usage: dict[str, int]  #: tokens of the requests that have succeeded so far
    usage_by_model: dict[str, dict[str, int]]
    cost: dict[str, Any] | None  #: currency, batch price and live price, once it has ended
    budget: Budget | None  #: the money cap, if it has one
    error: dict[str, Any] | None  #: why the job failed, if it did

    @classmethod
    def of(cls, job: Job) -> Self:
        """The public view of a job's record."""
        record = job.record
        running = "canceling" if record.cancel else "in_progress"
        by_model = _usage(job.shards)
        return cls(
            id=job.id,
            processing_status="ended" if job.state.ended else running,
            request_counts=job.counts,
            created_at=_time(record.fields["created_ms"]),
            ended_at=_known(record.fields.get("ended_ms")),
            cancel_initiated_at=_known(record.fields.get("cancel_ms")),
            state=job.state,
            cancel_initiated=bool(record.cancel),
            paused=Notice.of(record.json("paused")),
            alert=Notice.of(record.json("alert")),
            waiting_for_canary=bool(record.fields.get("waiting_for_canary")),
            model=record.fields.get("model", ""),
            progress=Progress.of(job.shards),
            shards=job.shards,
            usage=dict(sum(by_model.values(), Counter())),
            usage_by_model={model: dict(tokens) for model, tokens in by_model.items()},
            cost=record.json("cost"),
            budget=Budget.of(job.money),
            error=record.json("error"),
        )


class BatchPage:
    """Some jobs of a list, newest first; iterating goes on with the pages behind it, as in the
    SDK."""

    def __init__(
        self, data: list[Batch], *, has_more: bool, following: "Callable[[], BatchPage]"
    ) -> None:
        self.data = data
        self.has_more = has_more  #: in the direction in which the list was asked for
        self._following = following

    @property
    def first_id(self) -> str | None:
        """The id of its newest job."""
        return self.data[0].id if self.data else None

    @property
    def last_id(self) -> str | None:
        """The id of its oldest job."""
        return self.data[-1].id if self.data else None

    def has_next_page(self) -> bool:
        """Whether `get_next_page` has anything."""
        return self.has_more

    def get_next_page(self) -> "BatchPage":
        """The page behind this one."""
        return self._following()

    def __iter__(self) -> Iterator[Batch]:
        page = self
        yield from page.data
        while page.has_next_page():
            page = page.get_next_page()
            yield from page.data


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of a list is wanted, and whether it goes on behind it."""

    ids: list[str]
    has_more: bool

    @classmethod
    def of(cls, ids: list[str], limit: int, after_id: str | None, before_id: str | None) -> Self:
        """The part behind ``after_id``, or right before ``before_id``; ``ids``: newest first.

        An id that is not among them (the job has expired, or was deleted) is looked up by its
        place: ids sort by their time.
        """
        if before_id is not None:
            newer = [id for id in ids if id > before_id]
            return cls(newer[-limit:], len(newer) > limit)
        older = ids if after_id is None else [id for id in ids if id < after_id]
        return cls(older[:limit], len(older) > limit)


def _usage(shards: tuple[Shard, ...]) -> dict[str, Counter[str]]:
    """Model → tokens."""
    usage: dict[str, Counter[str]] = {}
    for shard in shards:
        for model, tokens in shard.usage.items():
            usage.setdefault(model, Counter()).update(tokens)
    return usage


def _known(milliseconds: str | None) -> datetime | None:
    return _time(milliseconds) if milliseconds else None


def _time(milliseconds: str | int) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
