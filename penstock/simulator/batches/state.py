"""The state that the batch endpoints share."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from penstock.simulator.batches.background import BackgroundTasks
from penstock.simulator.batches.store import BatchStore
from penstock.simulator.state import State


@dataclass
class BatchState(State):
    """The state of one simulator process, its batches included."""

    batches: BatchStore = field(default_factory=BatchStore)
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    evaluation_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: How often a request with ``first=N`` was seen in a batch, by the hash of its params.
    times_seen: Counter[int] = field(default_factory=Counter)

    def reset(self) -> None:
        """Forget everything but the options the process was started with."""
        super().reset()
        self.background.cancel()
        self.batches.clear()
        self.times_seen.clear()
