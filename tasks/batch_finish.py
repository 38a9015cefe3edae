"""Stub."""

from typing import Any

from tasks.shard import ClaimedShard
from tasks.step import Step


class FinishStep:
    """Stub."""

    def __init__(self, *_: Any) -> None:
        """Stub."""

    def run(self, work: ClaimedShard) -> Step:
        """Stub."""
        raise NotImplementedError
