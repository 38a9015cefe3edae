"""What a step of a shard reports, and with it what its task does next."""

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Next:
    """The step is complete: the next step of the chain follows at once."""

    summary: dict[str, Any]  #: the task's return value, for Flower
    wake: tuple[int, ...] = ()  #: shards that are new, or can continue now: each gets a wake-up
    pause: dict[str, Any] | None = None  #: why the job is paused: ``type``, ``message``


@dataclass(frozen=True, slots=True)
class RetryIn:
    """The step runs again in some seconds."""

    seconds: float
    reason: str  #: shown in Flower: which batch, how old, why; never the API's message
    failed: bool = False  #: a call or the step itself failed; otherwise it only has to wait


@dataclass(frozen=True, slots=True)
class Parked:
    """The shard waits until the job is resumed or canceled."""

    reason: str  #: shown in Flower; never the API's message, which may quote a request
    pause: dict[str, Any] | None = None  #: why the job is paused; None: it was paused before


@dataclass(frozen=True, slots=True)
class Redirect:
    """The shard's record calls for an earlier step: it continues there, in a new chain."""

    reason: str


@dataclass(frozen=True, slots=True)
class ShardDone:
    """Nothing is left to do for this shard; other shards of the job are not done yet."""

    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The step has ended the job, and with it the claim."""

    summary: dict[str, Any]


StepResult: TypeAlias = Next | RetryIn | Parked | Redirect | ShardDone | JobEnded
