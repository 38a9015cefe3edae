"""A request that this worker has claimed: its record, outbox and message so far."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import ResponseError

from config.settings import WorkerSettings
from penstock import events, json_text
from penstock.clock import now_ms
from penstock.events import Cursor
from penstock.follow.entries import decode_entry
from penstock.simulator.mark import is_simulated
from penstock.states import State
from penstock.store import request_scripts
from penstock.store.connection import AsyncConnection
from penstock.store.request_scripts import Invalid, UnclaimedEnd
from penstock.store.scripts import IN_GRACE, ClaimRefused, InGrace, is_state_of_redis
from tasks.api.rate_limits import Lane, lane_of
from tasks.retry import ControlSignal, Deferred
from tasks.streams.continuation import OnInterrupt
from tasks.streams.partial_message import PartialMessage
from tasks.streams.publish.outbox import Outbox
from tasks.streams.request_record import FIELDS, RecordFault, RequestRecord
from tasks.streams.retry_budget import RetryBudget
from tasks.streams.usage import Usage, piece_bytes

logger = logging.getLogger(__name__)

#: Entries of the log to read at once.
_PAGE: Final = 1_000


class NotClaimable(ControlSignal):
    """The request cannot be claimed; the exception's text says why."""


@dataclass(slots=True)
class ClaimedRequest:
    """The state of a claimed request while this worker runs it."""

    id: str
    outbox: Outbox
    model: str
    worker_losses: int  #: workers lost while they ran it
    stored: dict[str, str]  #: fields of the record, not parsed
    stored_body: bytes | None  #: None: the body has expired
    settings: WorkerSettings
    on_interrupt: OnInterrupt = OnInterrupt.CONTINUE
    deadline_ms: int | None = None  #: the first call is not made after this
    claimed_ms: int = field(default_factory=now_ms)  #: Redis's time when `claimed_at` was read
    claimed_at: float = field(default_factory=time.monotonic)
    started_ms: int = field(default_factory=now_ms)  #: time of the first claim
    body: dict[str, Any] | None = None  #: None: the body has expired
    headers: dict[str, str] = field(default_factory=dict)  #: the producer's headers for the API
    attempts: int = 0  #: calls of the API made so far, by all workers
    refusals: int = 0  #: of a call by the API so far, to all workers
    budget: RetryBudget = field(default_factory=lambda: RetryBudget(1))
    interruption: str = ""  #: type of the error that ended the last call, until the next begins
    message: PartialMessage = field(default_factory=PartialMessage)
    usage: Usage = field(default_factory=Usage)
    first_delta_ms: int | None = None  #: from the first claim to the first delta
    api_request_ids: list[str] = field(default_factory=list)
    simulated: bool = False  #: a response came from the simulator, to this worker or an earlier one
    replayed: bool = True  #: ``message`` has everything that earlier workers have published
    hand_over: bool = False  #: the worker is shutting down; return it to the queue
    interrupt: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def claim(
        cls, connection: AsyncConnection, settings: WorkerSettings, id: str, worker: str
    ) -> "ClaimedRequest":
        """Claim a request; `load` reads its state. Raises `NotClaimable` or `Deferred`."""
        keys = settings.keys.request(id)
        try:
            claim = await request_scripts.claim(
                keys, settings.keys, worker=worker, lease_ms=settings.lease_ms
            ).run_async(connection)
        except ResponseError as error:
            if is_state_of_redis(error):
                raise
            claim = Invalid("the record", f"cannot be claimed: {error}")
        if isinstance(claim, Invalid):
            await _fail(connection, settings, id, claim)
            raise NotClaimable(f"its record cannot be read: {claim.part} {claim.problem}")
        if isinstance(claim, InGrace):
            raise Deferred(IN_GRACE, claim.wait_ms / 1000)
        if isinstance(claim, ClaimRefused):
            raise NotClaimable(_WHY_NOT[claim.reason])
        async with connection.pipeline(transaction=False) as pipe:
            pipe.hmget(keys.meta, *FIELDS)
            pipe.get(keys.request)
            values, body = await pipe.execute(raise_on_error=False)
        if isinstance(values, Exception):
            raise values
        stored = {
            name: value.decode(errors="replace") if value else ""
            for name, value in zip(FIELDS, values, strict=True)
        }
        outbox = _outbox(settings, id, worker, claim.epoch, claim.n, typed=bool(stored["typed"]))
        outbox.cancel = claim.cancel
        return cls(
            id=id,
            outbox=outbox,
            model=stored["model"],
            worker_losses=claim.worker_losses,
            stored=stored,
            replayed=stored["attempts"] in ("", "0"),
            stored_body=b"" if isinstance(body, Exception) else body,
            settings=settings,
        )

    async def load(self, connection: AsyncConnection) -> None:
        """Parse the record, and rebuild the message from the log. Raises `RecordFault`."""
        record = RequestRecord.parse(self.stored, self.stored_body)
        self.stored_body = None
        self.on_interrupt, self.deadline_ms = record.on_interrupt, record.deadline_ms
        self.started_ms, self.claimed_ms = record.started_ms, record.claimed_ms
        self.first_delta_ms = record.first_delta_ms
        self.body, self.headers = record.body, record.headers
        self.attempts, self.usage = record.attempts, record.usage
        self.simulated, self.refusals = record.simulated, record.refusals
        self.budget = record.budget(self.settings.max_attempts)
        self.interruption = record.interruption
        if not self.attempts:
            return
        received = await self._replay(connection, trimmed=record.trimmed)
        self.replayed = True
        if record.open_output is not None and self.message.stop_reason is None:
            self.usage.end_lost_attempt(record.open_output, received)
            self.outbox.note(**self.usage.fields())

    async def _pages(self, connection: AsyncConnection) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the events of earlier attempts, page by page: other streams run in between.

        The log no longer changes: this claim has fenced all earlier writers.
        """
        after = Cursor()
        while True:
            entries = await connection.xrange(self.outbox.keys.log, min=f"({after}", count=_PAGE)
            page = []
            for place, fields in entries:
                event = decode_entry(place, fields)
                if event.data["type"] == events.UNREADABLE:
                    raise _unreadable(place)
                page.append(event.data)
                after = event.cursor
            yield page
            if len(entries) < _PAGE:
                return

    async def _replay(self, connection: AsyncConnection, *, trimmed: bool) -> int:
        """Rebuild the message from the events of earlier attempts.

        Returns the bytes that the last attempt has received.
        """
        text = (await connection.get(self.outbox.keys.text)) or b"" if trimmed else b""
        received = 0
        rest: list[dict[str, Any]] = []  # of a trimmed log, whose length is bounded
        async for page in self._pages(connection):
            received = _received(page, received)
            if trimmed:
                rest += page
            else:
                self._apply(page)
        if trimmed:
            self._apply(rest, before=text.decode(errors="replace"))
        return received

    def _apply(self, published: list[dict[str, Any]], before: str | None = None) -> None:
        """Apply events. ``before``: all visible text, if the log no longer has its beginning."""
        try:
            if before is not None:
                self.message.restore(before, published)
            for data in published:
                self.message.apply(data)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            problem = f"has an event of an unexpected form ({type(error).__name__}: {error})"
            raise RecordFault("the request's log", problem) from error

    def start_attempt(self) -> None:
        """Count an attempt: the API has received its call."""
        self.attempts += 1
        self.interruption = ""
        self.budget.start()
        self.usage.next_attempt()
        self._note_attempts()

    def undo_attempt(self) -> None:
        """Forget the attempt that was just started: the API refused it after all."""
        self.attempts -= 1
        self.budget.undo()
        self.usage.end_attempt(complete=True)
        self._note_attempts()

    def count_refusal(self) -> int:
        """Count a call that the API refused; returns the number of them."""
        self.refusals += 1
        self.outbox.note(api_retries=self.refusals)
        return self.refusals

    def end_attempt(self) -> None:
        """Estimate the usage of an attempt of which nothing more will arrive, if there is one."""
        self.usage.end_attempt(complete=self.message.stop_reason is not None)
        if self.attempts or self.usage.estimated:
            self._note_attempts()

    def note_interruption(self, reason: str) -> None:
        """Record why the next call is made, for the worker that makes it."""
        self.interruption = reason
        self._note_attempts()

    def _note_attempts(self) -> None:
        budget: dict[str, Any] = {"stalled": self.budget.stalled, "kept": self.budget.kept}
        if self.budget.last:
            budget["last"] = self.budget.last
        if self.interruption:
            budget["reason"] = self.interruption
        self.outbox.note(
            attempts=self.attempts, retry_budget=json_text.dumps(budget), **self.usage.fields()
        )

    async def renew_outbox(self, connection: AsyncConnection) -> None:
        """Replace an outbox whose events cannot be written by an empty one, for the last event."""
        failed = self.outbox
        n = await connection.hget(failed.keys.meta, "n")
        self.outbox = _outbox(
            self.settings,
            self.id,
            failed.worker,
            failed.epoch,
            int(n or 0),
            typed=bool(self.stored["typed"]),
        )
        self.outbox.cancel = failed.cancel

    def note_origin(self, headers: Mapping[str, str]) -> None:
        """Record it if a response with these headers comes from the simulator."""
        if not self.simulated and is_simulated(headers):
            self.simulated = True
            self.outbox.note(simulated=1)

    def until_deadline_s(self, wait_s: float) -> float:
        """Shorten a wait that would be longer than the deadline, if no call was made yet.

        The claim after it fails the request with ``deadline_exceeded``.
        """
        if self.deadline_ms is None or self.attempts:
            return wait_s
        return min(wait_s, max(self.deadline_ms - self.now_ms, 0) / 1000 + 0.1)

    @property
    def now_ms(self) -> int:
        """Redis's time, with which all times in the record are compared, as of this worker."""
        return self.claimed_ms + int((time.monotonic() - self.claimed_at) * 1000)

    @property
    def lane(self) -> Lane:
        """The calls with which it shares the API's rate limits."""
        return lane_of(self.model, self.body)

    @property
    def age_s(self) -> float:
        """Seconds since the first claim."""
        return (self.now_ms - self.started_ms) / 1000


def _outbox(
    settings: WorkerSettings, id: str, worker: str, epoch: int, n: int, *, typed: bool
) -> Outbox:
    return Outbox(
        settings.keys,
        id,
        worker=worker,
        epoch=epoch,
        n=n,
        ttl_s=settings.request_ttl_s,
        retention_s=settings.retention_s,
        log_limit=settings.log_limit,
        typed=typed,
    )


def _unreadable(entry: bytes) -> RecordFault:
    return RecordFault(f"entry {entry.decode(errors='replace')} of the log", "is not an event")


def _received(published: list[dict[str, Any]], received: int) -> int:
    """Add the bytes that the last attempt in these events has received to those before them."""
    for data in published:
        if data.get("type") == events.ATTEMPT:
            received = 0
        elif data.get("type") == "content_block_delta" and isinstance(data.get("delta"), dict):
            received += piece_bytes(data["delta"])
    return received


async def _fail(
    connection: AsyncConnection, settings: WorkerSettings, id: str, fault: Invalid
) -> None:
    """Fail a request whose record the claim script cannot read, so that it is not woken again."""
    error = RecordFault(fault.part, fault.problem).error
    logger.error("request %s has failed: %s", id, error["message"])
    end = {"type": events.END, "state": State.FAILED, "stop_reason": None, "error": error}
    await request_scripts.fail_unreadable(
        settings.keys.request(id),
        settings.keys,
        end=UnclaimedEnd(json_text.dumps(end), json_text.dumps(error)),
        retention_s=settings.retention_s,
    ).run_async(connection)


_WHY_NOT = {
    "gone": "its record has expired or was deleted",
    "ended": "it has already ended",
    "leased": "another worker is running it",
}
