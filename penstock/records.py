"""Records of requests: what a producer writes before the wake-up, and what anyone may read.

The functions that build arguments and read answers are pure; `RequestRecords` is the thin
synchronous shell round them that clients use. Workers use the same scripts from asyncio.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from penstock import events
from penstock.connection import Connection
from penstock.errors import InvalidRequest, NotFound
from penstock.ids import is_id
from penstock.keys import RecordKeys
from penstock.scripts import script
from penstock.settings import ClientSettings
from penstock.states import State


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


def now_ms() -> int:
    """Milliseconds since 1970, the unit of every time in a record."""
    return time.time_ns() // 1_000_000


def checked_id(id: str) -> str:
    """``id``, or `NotFound`: nothing that does not look like an id becomes part of a key."""
    if not is_id(id):
        raise NotFound(f"{id[:64]!r} is not an id")
    return id


class RequestRecords:
    """Requests in Redis, for producers and readers."""

    def __init__(self, connection: Connection, settings: ClientSettings) -> None:
        self._redis = connection
        self._settings = settings

    def submit(self, id: str, model: str, body: bytes, *, typed: bool) -> None:
        """Record a request (``body``: JSON) and log its first event.

        Raises `InvalidRequest` if the id is in use, `redis.RedisError` if Redis fails.
        """
        keys = self._settings.keys.request(id)
        queued = {"type": events.QUEUED, "id": id, "model": model}
        meta: dict[str, str | int] = {"kind": "stream", "model": model, "created_ms": now_ms()}
        if typed:
            meta["typed"] = 1
        fresh = script("submit")(
            self._redis,
            [keys.meta, keys.log, keys.events, keys.request],
            [
                self._settings.request_ttl_s,
                events.encode(0, 1, queued),
                body,
                *(item for pair in meta.items() for item in pair),
            ],
        )
        if not fresh:
            raise InvalidRequest(f"{id} is in use", field="id")

    def discard(self, id: str) -> None:
        """Remove a request that could not be announced."""
        keys = self._settings.keys.request(id)
        self._redis.delete(keys.meta, keys.log, keys.request)

    def read(self, id: str) -> Record:
        """The record. Raises `NotFound`."""
        keys = self._settings.keys.request(checked_id(id))
        return Record.parse(id, self._redis.hgetall(keys.meta))

    def snapshot(self, id: str) -> tuple[Record, str]:
        """The record and the visible answer of the same moment. Raises `NotFound`."""
        keys = self._settings.keys.request(checked_id(id))
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.meta)
            pipe.get(keys.text)
            raw, text = pipe.execute()
        return Record.parse(id, raw), (text or b"").decode()

    def cancel(self, id: str, who: str) -> State:
        """Ask for a request to be canceled; returns its state. Raises `NotFound`."""
        return request_cancel(self._redis, self._settings.keys.request(checked_id(id)), who)


def request_cancel(connection: Connection, keys: RecordKeys, who: str) -> State:
    """Set the cancel flag of a request or a job; returns its state. Raises `NotFound`."""
    state = script("cancel")(connection, [keys.meta], [who])
    if not state:
        raise NotFound(f"no record of {keys.id}: it never existed, or it has expired")
    return State(state.decode())
