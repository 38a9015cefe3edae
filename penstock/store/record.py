"""A record: what Redis holds of a request or a job at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from penstock.errors import NotFound
from penstock.ids import is_id
from penstock.states import State

#: Celery's queues on Redis have four steps of priority (0, 3, 6, 9); this leaves room above.
DEFAULT_PRIORITY = 3

#: Milliseconds after which the reaper looks whether a fresh request's wake-up has arrived.
LOST_AFTER_MS = 10_000


@dataclass(frozen=True, slots=True)
class Record:
    """A request's or a job's record, as it was at one moment."""

    id: str
    state: State
    epoch: int  #: how often it has been claimed
    n: int  #: number of the last event
    cancel: str  #: who asked for it to be canceled; empty if nobody did
    fields: Mapping[str, str]  #: everything else, as stored

    @classmethod
    def parse(cls, id: str, raw: Mapping[bytes, bytes]) -> "Record":
        """Read Redis's answer to HGETALL. Raises `NotFound` if it is empty."""
        if b"state" not in raw:  # HSET by hand makes a hash where the record has expired
            raise NotFound(f"no record of {id}: it never existed, or it has expired")
        fields = {key.decode(): value.decode() for key, value in raw.items()}
        return cls(
            id=id,
            state=State(fields.pop("state")),
            epoch=int(fields.pop("epoch")),
            n=int(fields.pop("n")),
            cancel=fields.pop("cancel", ""),
            fields=fields,
        )

    def json(self, field: str) -> Any:
        """The value of a field that holds JSON, or ``None``."""
        text = self.fields.get(field)
        return orjson.loads(text) if text else None


def checked_id(id: str) -> str:
    """``id``, or `NotFound`: nothing that does not look like an id becomes part of a key."""
    if not is_id(id):
        raise NotFound(f"{id[:64]!r} is not an id")
    return id


def state_found(id: str, state: State | None) -> State:
    """The state that a script found. Raises `NotFound` if there is no record."""
    if state is None:
        raise NotFound(f"no record of {id}: it never existed, or it has expired")
    return state
