"""Records of requests: written by a producer before the wake-up, and read by any client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from penstock import events
from penstock.errors import InvalidRequest
from penstock.settings import ClientSettings
from penstock.states import State
from penstock.store import request_scripts
from penstock.store.connection import Connection
from penstock.store.record import DEFAULT_PRIORITY, LOST_AFTER_MS, Record, checked_id, state_found
from penstock.store.scripts import ScriptCall
from penstock.streams.final_text import TextFinal
from penstock.validation import check_headers, check_text, is_number

#: Maximum seconds of a deadline, a year: the record of a request lives until its deadline.
MAX_DEADLINE_S: Final = 31_536_000

#: Records that `RequestRecords.waiting` reads with one round trip.
READ_AT_ONCE: Final = 1000

#: The error of a request whose deadline passed before its first call.
DEADLINE_EXCEEDED: Final = {
    "type": "deadline_exceeded",
    "message": "the deadline passed before the request was started; no tokens were spent",
}
#: The same after the loss of a worker: it may have sent a call that it could not record.
DEADLINE_EXCEEDED_AFTER_LOSS: Final = {
    "type": "deadline_exceeded",
    "message": "the deadline passed before an answer began; a worker was lost while it ran the "
    "request and may have sent a call, so tokens may have been spent",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """The options of a request, beside the Messages body. Raises `InvalidRequest`."""

    typed: bool = False  #: also publish the plain text
    priority: int = DEFAULT_PRIORITY  #: 0 (first) to 9 (last)
    deadline_s: float | None = None  #: seconds until the request is no longer worth starting
    on_interrupt: str = "continue"  #: continue · restart · fail
    headers: Mapping[str, str] = field(default_factory=dict)  #: ``anthropic-*``, for the API

    def __post_init__(self) -> None:
        # bool and IntEnum are rejected, too: Redis takes numbers only.
        if type(self.priority) is not int or not 0 <= self.priority <= 9:
            raise InvalidRequest("must be 0 (first) to 9 (last)", field="priority")
        deadline = self.deadline_s
        if deadline is not None and not (is_number(deadline) and 0 < deadline <= MAX_DEADLINE_S):
            words = f"must be a number of seconds above 0, at most {MAX_DEADLINE_S} (a year)"
            raise InvalidRequest(words, field="deadline")
        if self.on_interrupt not in ("continue", "restart", "fail"):
            raise InvalidRequest("must be 'continue', 'restart' or 'fail'", field="on_interrupt")
        check_headers(self.headers)

    def fields(self) -> dict[str, str | int]:
        """The options as fields of the record."""
        fields: dict[str, str | int] = {
            "priority": self.priority,
            "on_interrupt": self.on_interrupt,
        }
        if self.typed:
            fields["typed"] = 1
        if self.headers:
            fields["headers"] = orjson.dumps(dict(self.headers)).decode()
        if self.deadline_s is not None:
            fields["deadline_ms"] = int(self.deadline_s * 1000)  # from when it is recorded
        return fields


class RequestRecords:
    """Records of requests in Redis, for producers and readers."""

    def __init__(self, connection: Connection, settings: ClientSettings) -> None:
        self._redis = connection
        self._settings = settings

    def submit(
        self,
        id: str,
        model: str,
        body: bytes,
        options: "RequestOptions",
        final: TextFinal = TextFinal.AFTER_START,
    ) -> None:
        """Record a request (``body``: JSON) and log its first event.

        ``final``: when its text is final. Raises `InvalidRequest` if the id is in use, or
        `redis.RedisError`.
        """
        keys = self._settings.keys.request(id)
        when = {} if final is TextFinal.AFTER_START else {"text_final": str(final)}
        queued = {"type": events.QUEUED, "id": id, "model": model, **when}
        meta: dict[str, str | int] = {"kind": "stream", "model": model}
        meta |= options.fields() | when
        deadline_s = options.deadline_s or 0
        submit = request_scripts.submit(
            keys,
            self._settings.keys,
            ttl_s=self._settings.request_ttl_s + int(deadline_s),
            first_event=events.encode(0, 1, queued),
            body=body,
            check_after_ms=min(LOST_AFTER_MS, int(deadline_s * 1000) + 1000)
            if deadline_s
            else LOST_AFTER_MS,
            fields=meta,
        )
        if not submit.run(self._redis):
            raise InvalidRequest(f"{id} is in use", field="id")

    def discard(self, id: str) -> None:
        """Remove a request whose wake-up could not be sent."""
        keys = self._settings.keys.request(id)
        self._redis.delete(keys.meta, keys.log, keys.request)
        self._redis.zrem(self._settings.keys.live, id)

    def read(self, id: str) -> Record:
        """Read a record. Raises `NotFound`."""
        keys = self._settings.keys.request(checked_id(id))
        return Record.parse(id, self._redis.hgetall(keys.meta))

    def text(self, id: str) -> str:
        """Read the visible text of a request. Raises `NotFound`."""
        keys = self._settings.keys.request(checked_id(id))
        with self._redis.pipeline(transaction=False) as pipe:  # a full Redis may refuse MULTI
            pipe.hgetall(keys.meta)
            pipe.get(keys.text)
            raw, text = pipe.execute()
        Record.parse(id, raw)
        return (text or b"").decode(errors="replace")

    def cancel(self, id: str, who: str) -> State:
        """Cancel a request. Returns the state it had. Raises `NotFound`.

        A request that no worker holds ends at once; what was received before is kept. Raises
        `InvalidRequest` if ``who`` cannot be stored.
        """
        return state_found(id, self._cancel(id, who).run(self._redis))

    def waiting(self) -> list[str]:
        """Return the ids of all requests that wait in the queue: no worker has claimed them."""
        scan = self._redis.zscan_iter(self._settings.keys.live, count=READ_AT_ONCE)
        ids = list(dict.fromkeys(id.decode() for id, _ in scan))  # a scan can repeat an id
        found: list[str] = []
        for start in range(0, len(ids), READ_AT_ONCE):
            some = ids[start : start + READ_AT_ONCE]
            with self._redis.pipeline(transaction=False) as pipe:
                for id in some:
                    pipe.hmget(self._settings.keys.request(id).meta, "state")
                states = pipe.execute()
            found += [id for id, [state] in zip(some, states, strict=True) if state == b"queued"]
        return found

    def cancel_waiting(self, id: str, who: str) -> bool:
        """Cancel a request unless a worker has claimed it, or it has ended; returns whether it did.

        Raises `InvalidRequest` if ``who`` cannot be stored.
        """
        cancel = self._cancel(id, who, only_waiting=True)
        return cancel.run(self._redis) is State.QUEUED

    def _cancel(self, id: str, who: str, *, only_waiting: bool = False) -> ScriptCall[State | None]:
        keys = self._settings.keys.request(checked_id(id))
        check_text(who, "who")
        end = {"type": events.END, "state": State.CANCELED, "stop_reason": None, "by": who}
        return request_scripts.cancel(
            keys,
            self._settings.keys,
            who=who,
            end_event=orjson.dumps(end),
            retention_s=self._settings.retention_s,
            only_waiting=only_waiting,
        )
