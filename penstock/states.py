"""The states of a record, for requests and batch jobs."""

from enum import StrEnum


class State(StrEnum):
    """The state of a request or a job, stored in the ``state`` field of its record."""

    QUEUED = "queued"  #: recorded; no worker has claimed it, or it was given back to the queue
    RUNNING = "running"  #: a worker has claimed it
    DONE = "done"  #: complete
    FAILED = "failed"  #: ended by an error; what was received is kept
    CANCELED = "canceled"  #: ended at the request of a client; what was received is kept

    @property
    def ended(self) -> bool:
        """Whether the state is final: ``done``, ``failed`` or ``canceled``."""
        return self in ENDED


ENDED = frozenset({State.DONE, State.FAILED, State.CANCELED})
