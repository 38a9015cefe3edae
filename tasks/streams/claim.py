"""A request that this worker has claimed: its record, outbox and message so far."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson

from config.settings import WorkerSettings
from penstock import json_text
from penstock.clock import now_ms
from penstock.events import Cursor
from penstock.follow.entries import decode_entry
from penstock.store import request_scripts
from penstock.store.connection import AsyncConnection
from penstock.store.scripts import ClaimRefused, Restarted
from tasks.api.rate_limits import Lane, lane_of
from tasks.retry import ControlSignal, Deferred
from tasks.streams.continuation import OnInterrupt
from tasks.streams.partial_message import PartialMessage
from tasks.streams.publish.outbox import Outbox
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


class NotClaimable(ControlSignal):
    """The request cannot be claimed; the exception's text says why."""


@dataclass(slots=True)
class ClaimedRequest:
    """The state of a claimed request while this worker runs it."""

    id: str
    outbox: Outbox
    model: str
    on_interrupt: OnInterrupt
    deadline_ms: int | None  #: the first call is not made after this
    started_ms: int  #: time of the first claim
    worker_losses: int  #: workers lost while they ran it
    body: dict[str, Any] | None  #: None: the body has expired
    headers: dict[str, str] = field(default_factory=dict)  #: the producer's headers for the API
    attempts: int = 0  #: calls of the API made so far, by all workers
    message: PartialMessage = field(default_factory=PartialMessage)
    usage: Usage = field(default_factory=Usage)
    first_delta_ms: int | None = None  #: from the first claim to the first delta
    api_request_ids: list[str] = field(default_factory=list)
    hand_over: bool = False  #: the worker is shutting down; return it to the queue
    interrupt: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def claim(
        cls, connection: AsyncConnection, settings: WorkerSettings, id: str, worker: str
    ) -> "ClaimedRequest":
        """Claim a request and load its state. Raises `NotClaimable` or `Deferred`."""
        keys = settings.keys.request(id)
        claim = await request_scripts.claim(
            keys, settings.keys, worker=worker, lease_ms=settings.lease_ms
        ).run_async(connection)
        if isinstance(claim, Restarted):
            reason = "Redis was restarted; workers have one lease to renew the claims they hold"
            raise Deferred(reason, claim.wait_ms / 1000)
        if isinstance(claim, ClaimRefused):
            raise NotClaimable(_WHY_NOT[claim.reason])
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
        request = cls(
            id=id,
            outbox=outbox,
            model=record["model"],
            on_interrupt=OnInterrupt(record["on_interrupt"] or OnInterrupt.CONTINUE),
            deadline_ms=int(record["deadline_ms"]) if record["deadline_ms"] else None,
            started_ms=int(record["started_ms"]),
            worker_losses=claim.worker_losses,
            body=None if body is None else json_text.loads(body),
            headers=orjson.loads(record["headers"] or "{}"),
            attempts=int(record["attempts"] or 0),
            usage=Usage(orjson.loads(record["spent"]) if record["spent"] else None),
            first_delta_ms=int(record["first_delta_ms"]) if record["first_delta_ms"] else None,
        )
        if request.attempts:
            await request._replay(connection, trimmed=bool(record["base"]))
        return request

    async def _replay(self, connection: AsyncConnection, *, trimmed: bool) -> None:
        """Rebuild the message from the log of earlier attempts.

        The log no longer changes: this claim has fenced all earlier writers.
        """
        published = []
        after = Cursor()
        while True:
            page = await connection.xrange(self.outbox.keys.log, min=f"({after}", count=1000)
            for place, fields in page:
                event = decode_entry(place, fields)
                published.append(event.data)
                after = event.cursor
            if len(page) < 1000:
                break
        if trimmed:
            text = await connection.get(self.outbox.keys.text)
            self.message.restore((text or b"").decode(), published)
        for data in published:
            self.message.apply(data)

    def start_attempt(self) -> None:
        """Count an attempt, now that the API has accepted its call."""
        self.attempts += 1
        self.usage.next_attempt()
        self.outbox.note(attempts=self.attempts)

    def until_deadline_s(self, wait_s: float) -> float:
        """Shorten a wait that would be longer than the deadline, if no call was made yet.

        The claim after it fails the request with ``deadline_exceeded``.
        """
        if self.deadline_ms is None or self.attempts:
            return wait_s
        return min(wait_s, max(self.deadline_ms - now_ms(), 0) / 1000 + 0.1)

    @property
    def lane(self) -> Lane:
        """The calls with which it shares the API's rate limits."""
        return lane_of(self.model, self.body)

    @property
    def age_s(self) -> float:
        """Seconds since the first claim."""
        return (now_ms() - self.started_ms) / 1000


_WHY_NOT = {
    "gone": "its record has expired or was deleted",
    "ended": "it has already ended",
    "leased": "another worker is running it",
}
