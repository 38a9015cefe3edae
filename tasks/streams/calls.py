"""Makes the calls of the API for one request until its answer is complete.

An interrupted answer is resumed by a further call. Every call that was sent counts as an attempt,
answered or not; only a call that the API refused before its answer began does not.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import anthropic
import httpx2

from config.settings import WorkerSettings
from penstock import events, json_text
from penstock.capabilities import takes_prefill
from penstock.jitter import jitter
from penstock.store.connection import AsyncConnection
from penstock.streams.records import DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_AFTER_LOSS
from tasks.api.client import ApiProblem, problem_of
from tasks.api.message_stream import INVALID_RESPONSE, StreamInterrupted, open_stream
from tasks.api.retry import REFUSALS, wait_s
from tasks.retry import Deferred
from tasks.streams.attempt import Attempt
from tasks.streams.claim import ClaimedRequest
from tasks.streams.continuation import AttemptPlan, Mode, OnInterrupt, plan_attempt
from tasks.streams.event_parser import reports_error
from tasks.streams.publish.outbox import Outbox
from tasks.streams.rate_limiter import RateLimiter
from tasks.streams.refusals import refused
from tasks.streams.result import RequestFailed
from tasks.streams.retry_budget import Cost, Fault

#: Maximum seconds until an interrupted answer is resumed. Readers are waiting for it.
RESUME_MAX_WAIT_S: Final = 5.0
#: Interruptions by the connection. They are at the same place only if the answer has not advanced.
_CONNECTION: Final = frozenset({"connection_error", "incomplete_stream"})
#: Invalid events that come after the whole text.
_AT_THE_END: Final = tuple(
    f"{INVALID_RESPONSE}: {kind}" for kind in ("message_delta", "message_stop")
)


@dataclass(slots=True)
class _Call:
    """One call while it is made."""

    planned: AttemptPlan
    reason: str  #: why it is made, for readers; used from the second attempt on
    answered: bool = False  #: a response has begun
    announced: bool = False  #: readers know of it: an event other than ``ping`` has arrived
    received: int = 0  #: events, except pings


class ApiCalls:
    """Calls the API on the event loop of the process."""

    def __init__(
        self,
        settings: WorkerSettings,
        connection: AsyncConnection,
        api: anthropic.AsyncAnthropic,
        notify: Callable[[Outbox], None],
    ) -> None:
        """``notify`` is called when events were added to an outbox."""
        self._settings = settings
        self._api = api
        self._notify = notify
        self._rate_limiter = RateLimiter(connection, settings.keys)
        self._without_prefill: set[str] = set()  # models that have refused a prefill

    async def until_complete(self, request: ClaimedRequest) -> None:
        """Call the API until the answer is complete.

        Raises `RequestFailed`, or `Deferred` if the request has to wait in the queue.
        """
        if request.message.complete:
            return  # the lost worker had published everything but the last event
        body = self._startable_body(request)
        reason = request.interruption or "takeover"
        while not request.message.complete:
            try:
                fault = await self._attempt(request, body, reason)
            except Deferred:
                request.interruption = reason  # for the worker that makes the next call
                raise
            if fault is not None and not request.message.complete:
                self._check_resumable(request, body, fault)
                reason = str(fault.error["type"])
                request.note_interruption(reason)
                await asyncio.sleep(self._pause_s(request, fault))

    def _startable_body(self, request: ClaimedRequest) -> dict[str, Any]:
        """Return the body. Raises `RequestFailed` for a request that must not be called (again)."""
        if request.body is None:
            raise RequestFailed(
                {"type": "not_found_error", "message": "the request's body has expired"}
            )
        if request.deadline_ms and request.now_ms > request.deadline_ms and not request.attempts:
            lost = request.worker_losses
            raise RequestFailed(DEADLINE_EXCEEDED_AFTER_LOSS if lost else DEADLINE_EXCEEDED)
        if request.worker_losses >= self._settings.max_worker_losses:
            message = f"{request.worker_losses} workers were lost while they ran this request"
            raise RequestFailed({"type": "worker_lost", "message": message})
        # A lost worker may have sent a call that it could not record.
        called = request.attempts or request.worker_losses
        if called and request.on_interrupt is OnInterrupt.FAIL:
            raise RequestFailed({"type": "worker_lost", "message": "the worker was lost"})
        return request.body

    def _check_resumable(self, request: ClaimedRequest, body: dict[str, Any], fault: Fault) -> None:
        """Raise `RequestFailed` if the interrupted answer must not be resumed."""
        if request.on_interrupt is OnInterrupt.FAIL or not fault.retryable:
            raise RequestFailed(fault.error)
        usage, limit = request.usage.total, body["max_tokens"]
        why = request.budget.exhausted(
            fault,
            kept=self._kept(request, body),
            cost=Cost.of(usage, calls=request.attempts, max_tokens=limit),
        )
        if not why and request.age_s >= self._settings.stream_total_timeout_s:
            why = "the time for the whole answer is over (PENSTOCK_STREAM_TOTAL_TIMEOUT_S)"
        if why:
            error = fault.error
            raise RequestFailed({**error, "message": f"{error['message']} (given up: {why})"})

    def _kept(self, request: ClaimedRequest, body: dict[str, Any]) -> int:
        """Return the number of characters that the next call would continue."""
        planned = self._plan(request, body)
        continues = planned.mode in (Mode.PREFILL, Mode.USER_TURN)
        return len(request.message.text.rstrip()) if continues else 0

    def _pause_s(self, request: ClaimedRequest, fault: Fault) -> float:
        longest = self._settings.api_retry_max_wait_s if fault.place is None else RESUME_MAX_WAIT_S
        return wait_s(max(request.budget.stalled, 1), None, longest, jitter())

    def _plan(self, request: ClaimedRequest, body: dict[str, Any]) -> AttemptPlan:
        prefill = takes_prefill(request.model, self._settings.prefill)
        prefill = prefill and request.model not in self._without_prefill
        return plan_attempt(request.message, body, request.on_interrupt, prefill=prefill)

    async def _attempt(
        self, request: ClaimedRequest, body: dict[str, Any], reason: str
    ) -> Fault | None:
        """Make one call; returns how it was interrupted, None if it was not."""
        await self._acquire(request)
        call = _Call(self._plan(request, body), reason)
        try:
            async with asyncio.timeout(self._settings.stream_total_timeout_s) as limit:
                return await self._make(request, call)
        except TimeoutError:
            if not limit.expired():
                raise
        return self._overdue(request, call)

    async def _make(self, request: ClaimedRequest, call: _Call) -> Fault | None:
        try:
            async with open_stream(self._api, call.planned.body, request.headers) as response:
                call.answered = True
                request.start_attempt()
                request.note_origin(response.headers)
                request.api_request_ids.append(response.headers.get("request-id", ""))
                await self._rate_limiter.report(request.lane, request.id, response.headers)
                await self._relay(request, call, response.events())
        except StreamInterrupted as interruption:
            return await self._interrupted(request, call, interruption)
        except asyncio.CancelledError:
            self._rate_limiter.release(request.lane, request.id)
            if not call.answered:
                request.start_attempt()  # it was sent, so it counts and may be billed
            raise
        except (anthropic.APIError, httpx2.HTTPError) as error:
            return await self._failed(request, call, error)
        return None

    def _announce(self, request: ClaimedRequest, call: _Call, *, discards: bool = True) -> None:
        """Publish that a further attempt begins, and what it discards, if its answer has begun."""
        call.announced = True
        if request.attempts == 1:
            return
        outbox, message, planned = request.outbox, request.message, call.planned
        resume = {"mode": planned.mode, "attempt": request.attempts, "reason": call.reason}
        outbox.add_own({"type": events.ATTEMPT, **resume})
        if planned.rewind and discards:
            index, offset = planned.rewind
            before = len(message.text)
            message.apply({"type": events.REWIND, "index": index, "offset": offset})
            text = message.text
            outbox.rewind(index, offset, left=text if len(text) < before else None)
        self._notify(outbox)

    async def _relay(self, request: ClaimedRequest, call: _Call, arriving: Any) -> None:
        """Add every event to the outbox as it arrives. Raises `StreamInterrupted`."""
        outbox, message = request.outbox, request.message
        attempt = Attempt(call.planned, message, request.usage)
        async for arrived in arriving:
            for raw in arrived:
                if not call.announced and not _is_ping_or_error(raw):
                    self._announce(request, call)
                call.received += call.announced and b'"ping"' not in raw[:24]
                for line, data in attempt.feed(raw):
                    outbox.add(line, data)
            if message.has_delta and request.first_delta_ms is None:
                request.first_delta_ms = request.now_ms - request.started_ms
                outbox.note(first_delta_ms=request.first_delta_ms)
            if attempt.usage_changed:
                outbox.note(**request.usage.fields())
                attempt.usage_changed = False
            self._notify(outbox)
            if message.stopped:
                break  # do not wait for the end of the body: a proxy may keep the connection open
        if not message.complete:
            raise StreamInterrupted(
                "incomplete_stream", "the connection was closed before the answer was complete"
            )

    async def _interrupted(
        self, request: ClaimedRequest, call: _Call, interruption: StreamInterrupted
    ) -> Fault:
        """Return the fault of a response that had begun.

        Raises `Deferred` if the response was only a refusal: its status can no longer say so.
        """
        error = interruption.error
        status = REFUSALS.get(str(error["type"]))
        if status and not call.announced:
            request.undo_attempt()
            problem = ApiProblem(error["type"], error["message"], status=status, retryable=True)
            await self._report(request, problem)
            raise refused(self._settings, request, problem)
        if not call.announced:
            self._announce(request, call, discards=False)
        received = request.usage.received
        request.end_attempt()
        place: tuple[int, ...] | None = (call.received, received)
        if error["type"] in _CONNECTION:
            place = (call.received, received, len(request.message.text))
        if interruption.fault.startswith(_AT_THE_END):
            place = (0,)  # a call that continues a complete text receives less before its end
        if error["type"] == "connection_error" and not call.received:
            place = None  # a connection that is lost before the first event can be an outage
        return Fault(error, interruption.retryable, place, interruption.fault)

    async def _acquire(self, request: ClaimedRequest) -> None:
        """Ask the rate limiter. Raises `Deferred`: a waiting request holds no slot."""
        wait = await self._rate_limiter.acquire(request.lane, request.id)
        if wait > 0:
            raise Deferred(f"the API's rate limit for {request.lane}", wait)

    async def _failed(self, request: ClaimedRequest, call: _Call, error: Exception) -> Fault | None:
        """Handle a call without a usable response.

        Returns its fault if the API may have answered it, and None to try without prefill. Raises
        `Deferred` or `RequestFailed` if the API has refused it.
        """
        problem = problem_of(error)
        headers = getattr(getattr(error, "response", None), "headers", {})
        request.note_origin(headers)
        if problem.status:
            await self._report(request, problem, headers)
        else:  # no response, so it says nothing of the limit
            self._rate_limiter.release(request.lane, request.id)
        refused_prefill = problem.status == 400 and "prefill" in problem.message
        if call.planned.mode is Mode.PREFILL and refused_prefill:
            self._without_prefill.add(request.model)
            return None
        if not problem.retryable:
            raise RequestFailed(problem.as_error())
        if problem.unanswered:
            return self._unanswered(request, call, problem)
        raise refused(self._settings, request, problem)

    def _overdue(self, request: ClaimedRequest, call: _Call) -> Fault:
        """Return the fault of a call that has taken all the time there is for an answer."""
        if not call.announced:
            self._announce(request, call, discards=False)
        request.end_attempt()
        error = {"type": "timeout_error", "message": "the API did not complete its answer in time"}
        return Fault(error, retryable=True, place=None)

    def _unanswered(self, request: ClaimedRequest, call: _Call, problem: ApiProblem) -> Fault:
        """Count a call that was sent and got no answer: it may be billed."""
        if not call.answered:
            request.start_attempt()
        if not call.announced:
            self._announce(request, call, discards=False)
        request.end_attempt()
        error = problem.as_error()
        if problem.timed_out:
            seconds = f"{self._settings.stream_idle_timeout_s:g} s"
            error["message"] = f"no response for {seconds} (PENSTOCK_STREAM_IDLE_TIMEOUT_S)"
        return Fault(error, retryable=True, place=(0,) if problem.unreadable else None)

    async def _report(
        self, request: ClaimedRequest, problem: ApiProblem, headers: Any = None
    ) -> None:
        """Report the response to the rate limiter."""
        await self._rate_limiter.report(
            request.lane,
            request.id,
            headers or {},
            refused=problem.status in REFUSALS.values() and problem.retryable,
            retry_after_s=problem.retry_after,
        )


def _is_ping_or_error(raw: bytes) -> bool:
    """Whether an event is not yet a part of an answer."""
    try:
        data = json_text.loads(raw)
    except ValueError:
        return False
    return isinstance(data, dict) and (data.get("type") == "ping" or reports_error(data))
