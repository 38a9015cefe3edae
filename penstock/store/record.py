"""A record: what Redis has stored of a request or a job at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock import json_text
from penstock.errors import NotFound, RecordUnreadable
from penstock.ids import is_id
from penstock.states import State

#: Celery's queues on Redis have four priorities (0, 3, 6, 9), 0 first; this leaves one above.
DEFAULT_PRIORITY = 3

#: Milliseconds until the reaper checks that the wake-up of a new request has arrived.
LOST_AFTER_MS = 10_000


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a request or a job at one moment.

    ``fields`` has everything else as stored, such as ``model``, ``created_ms`` and ``usage``
    (JSON). `penstock.keys.RecordKeys.meta` lists them.
    """

    id: str
    state: State
    epoch: int  #: of the last claim, as in cursors; 0 before the first
    n: int  #: number of the last event
    cancel: str  #: who asked for it to be canceled; empty if it is not
    fields: Mapping[str, str]  #: everything else, as stored

    @classmethod
    def parse(cls, id: str, raw: Mapping[bytes, bytes]) -> "Record":
        """Read the reply to HGETALL. Raises `NotFound` or `RecordUnreadable`."""
        if b"state" not in raw:  # HSET by hand creates a hash where the record has expired
            raise NotFound(f"no record of {id}: it never existed, or it has expired")
        # Any program may have written a field, such as who canceled, in any encoding.
        fields = {_text(name): _text(value) for name, value in raw.items()}
        try:
            state = State(fields.pop("state"))
        except ValueError as error:
            raise RecordUnreadable(f"the record of {id} is damaged: {error}") from error
        return cls(
            id=id,
            state=state,
            epoch=_number(fields.pop("epoch", "")),
            n=_number(fields.pop("n", "")),
            cancel=fields.pop("cancel", ""),
            fields=fields,
        )

    def json(self, field: str) -> Any:
        """The value of a field that contains JSON; None if it is empty or missing."""
        text = self.fields.get(field)
        return json_text.loads(text) if text else None


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _number(text: str) -> int:
    """Return a number, or 0 in an odd record, whose state and error can still be read."""
    return int(text) if text.isascii() and text.isdigit() else 0


def checked_id(id: str) -> str:
    """Return ``id``, or raise `NotFound` if it cannot be one. Only ids become part of a key."""
    if not is_id(id):
        raise NotFound(f"{id[:64]!r} is not a valid id")
    return id


def state_found(id: str, state: State | None) -> State:
    """Return the state that a script found, or raise `NotFound` if there is no record."""
    if state is None:
        raise NotFound(f"no record of {id}: it never existed, or it has expired")
    return state
