"""One claimed request while a worker runs it: its record, its outbox and its answer so far."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson

from config.settings import WorkerSettings
from penstock import events
from penstock.clock import now_ms
from penstock.events import Cursor
from penstock.store import request_scripts
from penstock.store.connection import Connection
from penstock.store.scripts import ClaimRefused, Restarted
from tasks.streams.continuation import OnInterrupt
from tasks.streams.outbox import Outbox
from tasks.streams.partial_message import Answer
from tasks.streams.usage import Usage

_FIELDS = (
    "model",
    "typed",
    "on_interrupt",
    "deadline_ms",
    "started_ms",
    "attempts",
    "spent",
    "first_delta_ms",
    "headers",
    "base",
)


class Refused(Exception):
    """The record cannot be claimed; the message says why."""


class Postponed(Exception):
    """It is not the time for this request; it goes back to the queue."""

    def __init__(self, reason: str, countdown_s: float) -> None:
        super().__init__(reason)
        self.countdown_s = countdown_s


@dataclass(slots=True)
class Work:
    """A claimed request."""

    id: str
    outbox: Outbox
    model: str
    on_interrupt: OnInterrupt
    deadline_ms: int | None  #: not worth starting after this
    started_ms: int  #: of its first claim
    worker_losses: int  #: workers lost over it
    body: dict[str, Any] | None  #: None: it has expired
    headers: dict[str, str] = field(default_factory=dict)  #: for the API, beside ours
    attempts: int = 0  #: calls of the API made so far
    answer: Answer = field(default_factory=Answer)
    usage: Usage = field(default_factory=Usage)
    first_delta_ms: int | None = None  #: from the first claim to the first delta
    api_request_ids: list[str] = field(default_factory=list)
    hand_over: bool = False  #: the worker is shutting down
    interrupt: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def claim(
        cls, connection: Connection, settings: WorkerSettings, id: str, worker: str
    ) -> "Work":
        """Claim a request and read what is known of it. Raises `Refused` or `Postponed`."""
        keys = settings.keys.request(id)
        claim = await request_scripts.claim(
            keys, settings.keys, worker=worker, lease_ms=settings.lease_ms
        ).run_async(connection)
        if isinstance(claim, Restarted):
            reason = (
                "Redis was restarted, and running requests are for their workers to claim again"
            )
            raise Postponed(reason, claim.wait_ms / 1000)
        if isinstance(claim, ClaimRefused):
            raise Refused(_WHY_NOT[claim.reason])
        async with connection.pipeline(transaction=False) as pipe:
            pipe.hmget(keys.meta, *_FIELDS)
            pipe.get(keys.request)
            values, body = await pipe.execute()
        record = dict(
            zip(_FIELDS, (value.decode() if value else "" for value in values), strict=True)
        )
        outbox = Outbox(
            settings.keys,
            id,
            worker=worker,
            epoch=claim.epoch,
            n=claim.n,
            ttl_s=settings.request_ttl_s,
            retention_s=settings.retention_s,
            log_limit=settings.log_limit,
            typed=bool(record["typed"]),
        )
        outbox.cancel = claim.cancel
        work = cls(
            id=id,
            outbox=outbox,
            model=record["model"],
            on_interrupt=OnInterrupt(record["on_interrupt"] or OnInterrupt.CONTINUE),
            deadline_ms=int(record["deadline_ms"]) if record["deadline_ms"] else None,
            started_ms=int(record["started_ms"]),
            worker_losses=claim.worker_losses,
            body=None if body is None else orjson.loads(body),
            headers=orjson.loads(record["headers"] or "{}"),
            attempts=int(record["attempts"] or 0),
            usage=Usage(orjson.loads(record["spent"]) if record["spent"] else None),
            first_delta_ms=int(record["first_delta_ms"]) if record["first_delta_ms"] else None,
        )
        if work.attempts:
            await work._replay(connection, trimmed=bool(record["base"]))
        return work

    async def _replay(self, connection: Connection, *, trimmed: bool) -> None:
        """Read from the log what earlier attempts have published. No earlier writer can add to
        it: this claim has shut them out."""
        published = []
        after = Cursor()
        while True:
            page = await connection.xrange(self.outbox.keys.log, min=f"({after}", count=1000)
            for _, fields in page:
                event = events.decode(fields[b"d"])
                published.append(event.data)
                after = event.cursor
            if len(page) < 1000:
                break
        if trimmed:
            text = await connection.get(self.outbox.keys.text)
            self.answer.restore((text or b"").decode(), published)
        for data in published:
            self.answer.apply(data)

    def start_attempt(self) -> None:
        """Note that the API is called (again)."""
        self.attempts += 1
        self.usage.next_attempt()
        self.outbox.note(attempts=self.attempts)

    @property
    def age_s(self) -> float:
        """Seconds since its first claim."""
        return (now_ms() - self.started_ms) / 1000


_WHY_NOT = {
    "gone": "its record has expired or was deleted",
    "ended": "it has ended already",
    "leased": "another worker is at it",
}
