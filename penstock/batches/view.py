"""A batch job as its producer sees it, in the shape of the SDK's ``MessageBatch``; pure."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from penstock.batches.jobs import Job
from penstock.batches.shard import Counts, Shard, ShardState, usage_by_model
from penstock.states import State

#: States of a shard whose batch is at the API or may be.
_ACTIVE = (ShardState.SENDING, ShardState.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Notice:
    """Why a job is paused, or what the operator should check.

    `penstock.batches.notices` has the known types, each with its meaning and its remedy:

        if job.paused and (reason := PauseReason.of(job.paused.type)):
            print(job.paused.message, reason.remedy)
    """

    type: str  #: a value of `PauseReason` or `Alert`, an API error type, or one of a newer worker
    message: str  #: one or more sentences; may quote the API
    since: datetime  #: when it was recorded, in UTC

    @classmethod
    def of(cls, raw: dict[str, Any] | None) -> Self | None:
        """Read the JSON of a record's field; None if the field is empty."""
        return cls(raw["type"], raw["message"], _time(raw["at_ms"])) if raw else None


@dataclass(frozen=True, slots=True)
class Budget:
    """The cost cap of a job, in US dollars: ``create(max_cost_usd=…)`` or ``resume`` set it."""

    cap_usd: float
    spent_usd: float  #: what the collected batches have cost
    reserved_usd: float  #: the most that the batches now at the API can cost

    @classmethod
    def of(cls, money: dict[str, int]) -> Self | None:
        """Read the record's amounts, in millionths of a dollar; None for a job without a cap."""
        if "cap" not in money:
            return None
        reserved = sum(amount for name, amount in money.items() if name.startswith("reserved:"))
        millionths = (money["cap"], money.get("spent", 0), reserved)
        return cls(*(amount / 1_000_000 for amount in millionths))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, in shards: batches of the API that it is divided into.

    The API reports no counts of a batch before all of it has ended, so a job's progress cannot be
    counted in requests.
    """

    shards: int  #: all shards; one is added whenever requests are retried
    ended: int  #: shards whose batch has ended at the API
    collected: int  #: shards whose results can be read
    active: int  #: shards whose batch is at the API now
    rounds: int  #: how often requests had to be retried so far

    @classmethod
    def of(cls, shards: tuple[Shard, ...]) -> Self:
        """Count the shards by their state."""
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
    """A batch job at one moment. The first ten fields are those of the API's message batch.

    It does not change; ``client.messages.batches.retrieve(job.id)`` reads the job again. Times are
    in UTC. A job of many requests is many batches at the API: ``shards`` has them.
    """

    id: str  #: the job's own id, not one of the API
    type: str = "message_batch"
    processing_status: str  #: in_progress · canceling · ended
    request_counts: Counts  #: requests by outcome; ``processing`` until their result can be read
    created_at: datetime
    ended_at: datetime | None
    expires_at: None = None  #: a job does not expire: requests that do are retried
    cancel_initiated_at: datetime | None
    archived_at: None = None
    results_url: None = None  #: read them with ``batches.results(id)``
    state: State  #: queued · running · done · failed · canceled
    cancel_initiated: bool
    paused: Notice | None  #: why no new batch is created until the job is resumed
    alert: Notice | None  #: what the operator should check; the job continues
    waiting_for_canary: bool  #: whether the canary has not been answered yet
    model: str  #: the model of the first request
    progress: Progress
    shards: tuple[Shard, ...]
    #: error type → number of collected requests that ended in it, those of retried ones left out
    errors: dict[str, int] = field(default_factory=dict)
    #: tokens and uses of server tools of the collected requests, by the API's names
    usage: dict[str, int]
    usage_by_model: dict[str, dict[str, int]]  #: the same for each model
    #: ``currency``, ``batch``, ``live`` and ``saved``: what the ended job cost, and would have cost
    #: as live calls; ``estimated``: the part for calls without an answer; ``excludes``: what is
    #: billed and not included. None before, or if the price of a model is unknown
    cost: dict[str, Any] | None
    budget: Budget | None  #: the cost cap; None for a job without one
    error: (
        dict[str, Any] | None
    )  #: ``type`` and ``message``: why the job failed; None if it did not
    retry_of: str | None = None  #: the job whose failed requests this one has sent again
    retried_by: str | None = None  #: the job that has sent the failed requests of this one again
    simulated: bool = (
        False  #: whether the simulator has answered requests: their results are invented
    )

    @classmethod
    def of(cls, job: Job) -> Self:
        """Make the public view of a job's record."""
        record = job.record
        running = "canceling" if record.cancel else "in_progress"
        by_model = usage_by_model(job.shards)
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
            errors=_errors(job.shards),
            usage=dict(sum(by_model.values(), Counter())),
            usage_by_model={model: dict(tokens) for model, tokens in by_model.items()},
            cost=record.json("cost"),
            budget=Budget.of(job.money),
            error=record.json("error"),
            retry_of=record.fields.get("retry_of") or None,
            retried_by=record.fields.get("retried_by") or None,
            simulated=any(shard.simulated for shard in job.shards),
        )

    @property
    def unsuccessful(self) -> int:
        """The number of requests that have ended without a message."""
        counts = self.request_counts
        return counts.errored + counts.canceled + counts.expired


def _errors(shards: tuple[Shard, ...]) -> dict[str, int]:
    """Add up the errors of shards, the most frequent type first."""
    errors: Counter[str] = Counter()
    for shard in shards:
        errors.update(shard.errors)
    return dict(errors.most_common())


def _known(milliseconds: str | None) -> datetime | None:
    return _time(milliseconds) if milliseconds else None


def _time(milliseconds: str | int) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
