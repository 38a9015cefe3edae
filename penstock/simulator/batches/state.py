"""The batches of one simulator, beside all else it knows."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from penstock.simulator.batches.background import BackgroundTasks
from penstock.simulator.batches.store import BatchStore
from penstock.simulator.state import State


@dataclass
class BatchState(State):
    """What the endpoints of batches share, on top of what all endpoints share."""

    batches: BatchStore = field(default_factory=BatchStore)
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    evaluation_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    times_seen: Counter[int] = field(default_factory=Counter)
    """How often a request that passes later was seen in a batch, by the hash of its params."""

    def reset(self) -> None:
        """Forget everything but the options the process was started with."""
        super().reset()
        self.background.cancel()
        self.batches.clear()
        self.times_seen.clear()
