"""The states that a record goes through, for requests and for batch jobs alike."""

from enum import StrEnum


class State(StrEnum):
    """Where a request or a job stands; stored in its record's ``state`` field."""

    QUEUED = "queued"  #: recorded and announced; no worker has claimed it yet
    RUNNING = "running"  #: a worker holds its lease
    DONE = "done"  #: ended as the API meant it to end
    FAILED = "failed"  #: ended by an error; what was received is kept
    CANCELED = "canceled"  #: ended because somebody asked for it; what was received is kept

    @property
    def ended(self) -> bool:
        """Whether nothing will ever change any more."""
        return self in ENDED


ENDED = frozenset({State.DONE, State.FAILED, State.CANCELED})
