"""How a step of a shard went, and what comes next."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the task does once a step is over.

    Without anything set, the next step of the chain follows at once. ``countdown_s``: this step is
    run again then, for ``reason``. ``park``: nothing happens to the shard until the job is resumed.
    ``back``: the shard goes on with the step that its record calls for, in a chain of its own.
    ``done``: there is nothing left to do for this shard. ``ended``: the job has ended by this step.
    """

    summary: dict[str, Any] = field(default_factory=dict)
    countdown_s: float | None = None
    reason: str = ""  #: for Flower: which batch, how old, why
    pause: dict[str, Any] | None = None  #: ``type`` and ``message``: the job is paused for this
    park: bool = False
    back: bool = False
    done: bool = False
    ended: bool = False
    #: numbers of the shards that this step made, or that can go on now: each gets a wake-up
    wake: tuple[int, ...] = ()
