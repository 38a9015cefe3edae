"""How long a job will still take, by how long the deployment's last batches took; pure.

Of what the API will do nobody can know more. So the rest of the job is played through many times,
each batch taking as long as one drawn from the history: the middle of the outcomes and a bad one
are the estimate. Whoever plays a hundred batches through sees that the slowest one decides.
"""

import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from penstock.batches.shard import Shard, ShardState

#: What a deployment has at the API at once, where nobody has set other limits.
ACTIVE_BATCHES: Final = 90
QUEUED_REQUESTS: Final = 200_000

#: Batches of one model that must have ended before they alone are asked.
_ENOUGH: Final = 5
#: A batch ends after a day, whatever has become of its requests.
_LONGEST_MS: Final = 86_400_000
#: Draws of all plays together; at least a few plays, and no more than are of use.
_DRAWS: Final = 100_000
_PLAYS: Final = (20, 200)
#: The bad outcome: nine of ten are better.
_HIGH: Final = 0.9


@dataclass(frozen=True, slots=True)
class Past:
    """A batch that has ended."""

    model: str
    requests: int
    ms: int  #: from its creation until it was seen to have ended

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        """What an entry of the history says."""
        return cls(entry["model"], entry["requests"], entry["ms"])


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much longer a job will take."""

    median_s: float  #: as likely more as less
    high_s: float  #: nine times of ten less


def remaining(
    shards: Iterable[Shard], history: Sequence[Past], now_ms: int, *, width: int | None = None
) -> Estimate | None:
    """The time until the last of ``shards`` has ended; None if no batch has ended before.

    ``width``: how many batches the deployment may have at the API at once, by default as many as
    the API's limits allow for batches of this size. Lines that have to be tried again come on top.
    """
    if not history:
        return None
    left = [
        shard for shard in shards if shard.state not in (ShardState.ENDED, ShardState.COLLECTED)
    ]
    if not left:
        return Estimate(0.0, 0.0)
    if width is None:
        largest = max(shard.requests for shard in left)
        width = max(1, min(ACTIVE_BATCHES, QUEUED_REQUESTS // max(largest, 1)))
    known = {model: _durations(history, model) for model in {shard.model for shard in left}}
    begun = [_rest(known[s.model], now_ms - s.created_ms) for s in left if s.created_ms]
    planned = [known[shard.model] for shard in left if not shard.created_ms]
    fewest, most = _PLAYS
    dice = random.Random(0)  # noqa: S311 - the same job has the same estimate
    plays = min(most, max(fewest, _DRAWS // len(left)))
    outcomes = sorted(_play(begun, planned, width, dice) for _ in range(plays))
    return Estimate(outcomes[plays // 2] / 1000, outcomes[int(plays * _HIGH)] / 1000)


def _durations(history: Sequence[Past], model: str) -> list[int]:
    """What batches of this model took; of any, where there are few of it."""
    own = [past.ms for past in history if past.model == model]
    return own if len(own) >= _ENOUGH else [past.ms for past in history]


def _rest(durations: list[int], age_ms: int) -> list[int]:
    """What a batch of this age may still take: what those took longer that were not done by then.
    One that is older than any of them may take as long again, up to the API's limit."""
    longer = [ms - age_ms for ms in durations if ms > age_ms]
    return longer or [max(0, min(age_ms, _LONGEST_MS - age_ms))]


def _play(begun: list[list[int]], planned: list[list[int]], width: int, dice: random.Random) -> int:
    """One way in which it may go: milliseconds until the last batch has ended."""
    busy = [dice.choice(durations) for durations in begun]
    heapq.heapify(busy)
    end = max(busy, default=0)
    for durations in planned:
        start = heapq.heappop(busy) if len(busy) >= width else 0
        done = start + dice.choice(durations)
        heapq.heappush(busy, done)
        end = max(end, done)
    return end
