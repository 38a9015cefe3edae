"""Estimates how much longer a job takes, from how long the last batches took; pure.

The API gives no other hint. So the rest of the job is simulated many times, with a duration from
the history for each batch: the estimate is the median outcome and a bad one. With a hundred
batches the slowest one decides, which an average would not show.
"""

import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from penstock.batches.shard import Shard, ShardState

#: Active batches and queued requests of a deployment, with the default limits.
ACTIVE_BATCHES: Final = 90
QUEUED_REQUESTS: Final = 200_000

#: Minimum batches of one model in the history for an estimate from them alone.
_MIN_SAMPLES: Final = 5
#: Milliseconds after which the API ends every batch.
_MAX_BATCH_MS: Final = 86_400_000
#: Batches to simulate in all runs together, and minimum and maximum number of runs.
_DRAWS: Final = 100_000
_RUNS: Final = (20, 200)
#: Share of outcomes that are better than the bad one.
_HIGH_QUANTILE: Final = 0.9


@dataclass(frozen=True, slots=True)
class BatchDuration:
    """How long a batch took: an entry of the history."""

    model: str
    requests: int
    ms: int  #: milliseconds from its creation until a worker saw that it had ended

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        """Read an entry of the history."""
        return cls(entry["model"], entry["requests"], entry["ms"])


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much longer a job takes, in seconds."""

    median_s: float  #: half of the simulated outcomes are shorter
    high_s: float  #: nine of ten simulated outcomes are shorter


def estimate_remaining(
    shards: Iterable[Shard],
    history: Sequence[BatchDuration],
    now_ms: int,
    *,
    width: int | None = None,
) -> Estimate | None:
    """Estimate the time until the last of ``shards`` has ended; None without any history.

    ``width``: maximum active batches of the deployment, by default as many as the API's limits
    allow for batches of this size. Requests that have to be retried take additional time.
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
    begun = [_remaining(known[s.model], now_ms - s.created_ms) for s in left if s.created_ms]
    planned = [known[shard.model] for shard in left if not shard.created_ms]
    fewest, most = _RUNS
    rng = random.Random(0)  # noqa: S311 - the same job has the same estimate
    runs = min(most, max(fewest, _DRAWS // len(left)))
    outcomes = sorted(_simulate(begun, planned, width, rng) for _ in range(runs))
    return Estimate(outcomes[runs // 2] / 1000, outcomes[int(runs * _HIGH_QUANTILE)] / 1000)


def _durations(history: Sequence[BatchDuration], model: str) -> list[int]:
    """Return the durations of this model's batches, or of all if there are too few of them."""
    own = [duration.ms for duration in history if duration.model == model]
    return own if len(own) >= _MIN_SAMPLES else [duration.ms for duration in history]


def _remaining(durations: list[int], age_ms: int) -> list[int]:
    """Return what a batch of this age may still take, from the batches that took longer.

    One that is older than all of them may take as long again, up to the API's limit.
    """
    longer = [ms - age_ms for ms in durations if ms > age_ms]
    return longer or [max(0, min(age_ms, _MAX_BATCH_MS - age_ms))]


def _simulate(
    begun: list[list[int]], planned: list[list[int]], width: int, rng: random.Random
) -> int:
    """Simulate one outcome: milliseconds until the last batch has ended."""
    busy = [rng.choice(durations) for durations in begun]
    heapq.heapify(busy)
    end = max(busy, default=0)
    for durations in planned:
        start = heapq.heappop(busy) if len(busy) >= width else 0
        done = start + rng.choice(durations)
        heapq.heappush(busy, done)
        end = max(end, done)
    return end
