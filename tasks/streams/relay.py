"""Runs requests: calls the API and publishes every event to readers.

claim → rate limiter → call → publish every event → end. All streams of a process run here, on one
event loop. An interrupted answer is resumed here or by the next worker to claim the request.
Everything readers have seen is in the log, so any worker can resume it.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

import anthropic
import httpx2
import orjson

from config.settings import WorkerSettings
from penstock import events
from penstock.capabilities import takes_prefill
from penstock.clock import now_ms
from penstock.jitter import jitter
from penstock.states import State
from penstock.store import request_scripts
from penstock.store.availability import retry_until_available
from penstock.store.connection import AsyncConnection
from penstock.streams.records import DEADLINE_EXCEEDED
from tasks.api.client import problem_of
from tasks.api.message_stream import StreamInterrupted, open_stream
from tasks.api.retry import wait_s
from tasks.retry import ControlSignal, Deferred
from tasks.streams.attempt import Attempt, missing_end
from tasks.streams.claim import ClaimedRequest, NotClaimable
from tasks.streams.continuation import AttemptPlan, Mode, OnInterrupt, plan_attempt
from tasks.streams.publish.publisher import Publisher
from tasks.streams.rate_limiter import RateLimiter
from tasks.streams.result import RunResult, end_event, ended, error_after_retries

logger = logging.getLogger(__name__)

#: Maximum seconds until an interrupted answer is resumed. Readers are waiting for it.
RESUME_MAX_WAIT_S: Final = 5.0
#: Seconds to flush pending writes at shutdown.
SHUTDOWN_FLUSH_S: Final = 5.0


class _Interrupted(ControlSignal):
    """The stream was canceled or handed over, or another worker has claimed it."""


class _Failed(ControlSignal):
    """The request cannot be answered. ``error``: for its record and its last event."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["type"])
        self.error = error


class Relay:
    """Runs requests on the event loop of the process."""

    def __init__(
        self,
        settings: WorkerSettings,
        connection: AsyncConnection,
        api: anthropic.AsyncAnthropic,
        publisher: Publisher,
        worker: str,
    ) -> None:
        self._settings = settings
        self._redis = connection
        self._api = api
        self._publisher = publisher
        self._worker = worker
        self._rate_limiter = RateLimiter(connection, settings.keys)
        self._running: dict[str, ClaimedRequest] = {}
        self._without_prefill: set[str] = set()  # models that have refused a prefill
        self._closing = False

    async def run(self, id: str) -> RunResult:
        """Run a request until it ends, is deferred or is lost to another worker."""
        try:
            request = await ClaimedRequest.claim(self._redis, self._settings, id, self._worker)
        except NotClaimable as signal:
            return RunResult("skipped", reason=str(signal))
        except Deferred as signal:
            return RunResult("retry", reason=signal.reason, countdown_s=signal.countdown_s)
        request.hand_over = self._closing
        self._running[id] = request
        self._publisher.watch(request.outbox, request.interrupt.set)
        try:
            return await self._run_claimed(request)
        finally:
            self._running.pop(id, None)
            self._publisher.unwatch(request.outbox)

    async def cancel(self, id: str, who: str) -> None:
        """Cancel a request, whether it is queued, runs here or runs elsewhere."""
        keys, shared = self._settings.keys.request(id), self._settings.keys
        end = {"type": events.END, "state": State.CANCELED, "stop_reason": None, "by": who}
        await request_scripts.cancel(
            keys,
            shared,
            who=who,
            end_event=orjson.dumps(end),
            retention_s=self._settings.retention_s,
        ).run_async(self._redis)
        self._publisher.check_cancel(id)

    def hand_over(self) -> None:
        """Return all running streams to the queue: this worker is shutting down."""
        self._closing = True
        for request in self._running.values():
            request.hand_over = True
            request.interrupt.set()

    async def _run_claimed(self, request: ClaimedRequest) -> RunResult:
        try:
            await self._interruptible(self._until_complete(request), request)
        except _Interrupted:
            return await self._conclude_interrupted(request)
        except Deferred as signal:
            return await self._requeue(request, signal.reason, signal.countdown_s)
        except _Failed as signal:
            return await self._finish(request, State.FAILED, error=signal.error)
        except Exception as error:
            # A bug of ours, not the API's error. Better the request fails than hangs.
            logger.exception("request %s failed because of a bug in penstock", request.id)
            bug = {"type": "internal_error", "message": f"{type(error).__name__} in the worker"}
            return await self._finish(request, State.FAILED, error=bug)
        return await self._finish(request, State.DONE)

    async def _interruptible(
        self, running: Coroutine[Any, Any, None], request: ClaimedRequest
    ) -> None:
        """Run it until it ends or is interrupted; an interrupt closes the API connection."""
        if request.outbox.cancel or request.hand_over:
            running.close()
            raise _Interrupted
        task = asyncio.create_task(running)
        interrupt = asyncio.ensure_future(request.interrupt.wait())
        try:
            await asyncio.wait({task, interrupt}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await _cancel_task(task)
                raise _Interrupted
            await task
        finally:
            interrupt.cancel()

    async def _until_complete(self, request: ClaimedRequest) -> None:
        """Call the API until the answer is complete."""
        if request.message.complete:
            return  # the lost worker had published everything but the last event
        body = self._startable_body(request)
        interruption: StreamInterrupted | None = None
        while not request.message.complete:
            reason = str(interruption.error["type"]) if interruption else "takeover"
            if interruption is not None:
                self._check_resumable(request, interruption)
                wait = wait_s(request.attempts, None, RESUME_MAX_WAIT_S, jitter())
                await asyncio.sleep(wait)
            interruption = await self._attempt(request, body, reason)

    def _startable_body(self, request: ClaimedRequest) -> dict[str, Any]:
        """Return the body. Raises `_Failed` for a request that must not be called (again)."""
        if request.body is None:
            raise _Failed({"type": "not_found_error", "message": "the request's body has expired"})
        if request.deadline_ms and now_ms() > request.deadline_ms and not request.attempts:
            raise _Failed(DEADLINE_EXCEEDED)
        if request.worker_losses >= self._settings.max_worker_losses:
            message = f"{request.worker_losses} workers were lost while they ran this request"
            raise _Failed({"type": "worker_lost", "message": message})
        if request.attempts and request.on_interrupt is OnInterrupt.FAIL:
            raise _Failed({"type": "worker_lost", "message": "the worker was lost"})
        return request.body

    def _check_resumable(self, request: ClaimedRequest, interruption: StreamInterrupted) -> None:
        """Raise `_Failed` if the interrupted answer must not be resumed."""
        exhausted = (
            request.attempts >= self._settings.max_attempts
            or request.age_s > self._settings.stream_total_timeout_s
        )
        if request.on_interrupt is OnInterrupt.FAIL or not interruption.retryable or exhausted:
            raise _Failed(interruption.error)

    async def _attempt(
        self, request: ClaimedRequest, body: dict[str, Any], reason: str
    ) -> StreamInterrupted | None:
        """Make one call; returns how it was interrupted, None if it was not."""
        await self._acquire(request)
        prefill = takes_prefill(request.model, self._settings.prefill)
        prefill = prefill and request.model not in self._without_prefill
        planned = plan_attempt(request.message, body, request.on_interrupt, prefill=prefill)
        try:
            async with open_stream(self._api, planned.body, request.headers) as call:
                request.start_attempt()
                self._announce(request, planned, reason)
                request.api_request_ids.append(call.headers.get("request-id", ""))
                await self._rate_limiter.report(request.lane, request.id, call.headers)
                await self._relay(request, planned, call.events())
        except StreamInterrupted as interruption:
            return interruption
        except asyncio.CancelledError:
            self._rate_limiter.release(request.lane, request.id)
            raise
        except (anthropic.APIError, httpx2.HTTPError) as error:
            await self._handle_refusal(request, planned, error)
        return None

    def _announce(self, request: ClaimedRequest, planned: AttemptPlan, reason: str) -> None:
        """Publish that a further attempt begins, and what it discards."""
        if request.attempts == 1:
            return
        outbox, message = request.outbox, request.message
        resume = {"mode": planned.mode, "attempt": request.attempts, "reason": reason}
        outbox.add_own({"type": events.ATTEMPT, **resume})
        if planned.rewind:
            index, offset = planned.rewind
            before = len(message.text)
            message.apply({"type": events.REWIND, "index": index, "offset": offset})
            text = message.text
            outbox.rewind(index, offset, left=text if len(text) < before else None)
        self._publisher.notify(outbox)

    async def _relay(self, request: ClaimedRequest, planned: AttemptPlan, arriving: Any) -> None:
        """Add every event to the outbox as it arrives. Raises `StreamInterrupted`."""
        outbox, message = request.outbox, request.message
        attempt = Attempt(planned, message, request.usage)
        async for arrived in arriving:
            for raw in arrived:
                for line, data in attempt.feed(raw):
                    outbox.add(line, data)
            if message.has_delta and request.first_delta_ms is None:
                request.first_delta_ms = now_ms() - request.started_ms
                outbox.note(first_delta_ms=request.first_delta_ms)
            if attempt.usage_changed:
                outbox.note(spent=orjson.dumps(request.usage.total))
                attempt.usage_changed = False
            self._publisher.notify(outbox)
            if message.stopped:
                break  # do not wait for the end of the body: a proxy may keep the connection open
        if not message.complete:
            raise StreamInterrupted(
                "incomplete_stream", "the connection was closed before the answer was complete"
            )

    async def _acquire(self, request: ClaimedRequest) -> None:
        """Ask the rate limiter. Raises `Deferred`: a waiting request holds no slot."""
        wait = await self._rate_limiter.acquire(request.lane, request.id)
        if wait > 0:
            raise Deferred(f"waiting for the API's rate limit for {request.lane}", wait)

    async def _handle_refusal(
        self, request: ClaimedRequest, planned: AttemptPlan, error: Exception
    ) -> None:
        """Raise `Deferred` or `_Failed` for a failed call; return to try without prefill."""
        problem = problem_of(error)
        headers = getattr(getattr(error, "response", None), "headers", {})
        await self._rate_limiter.report(
            request.lane,
            request.id,
            headers,
            refused=problem.status in (429, 529) and problem.retryable,
            retry_after_s=problem.retry_after,
        )
        if planned.mode is Mode.PREFILL and problem.status == 400 and "prefill" in problem.message:
            self._without_prefill.add(request.model)
            return
        if not problem.retryable:
            raise _Failed(problem.as_error())
        keys = request.outbox.keys
        counted = await retry_until_available(
            lambda: self._redis.hincrby(keys.meta, "api_retries", 1)
        )
        refusals = int(counted)
        if refusals >= self._settings.max_api_retries:
            raise _Failed(error_after_retries(problem, refusals))
        longest = self._settings.api_retry_max_wait_s
        raise Deferred(str(problem), wait_s(refusals, problem.retry_after, longest, jitter()))

    async def _conclude_interrupted(self, request: ClaimedRequest) -> RunResult:
        if request.outbox.lost:
            return RunResult("skipped", reason=request.outbox.lost)
        if request.outbox.cancel:
            return await self._finish(request, State.CANCELED, by=request.outbox.cancel)
        reason = "handed over: its worker is shutting down"
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_FLUSH_S):
                return await self._requeue(request, reason, 0.0)
        # The lease will expire, and another worker will resume from the log.
        return RunResult("skipped", reason=f"{reason}, and Redis is unavailable")

    async def _requeue(self, request: ClaimedRequest, reason: str, countdown_s: float) -> RunResult:
        """Write everything, then release the claim, so that the next worker can resume."""
        await self._publisher.drain(request.outbox)
        if request.outbox.lost:
            return RunResult("skipped", reason=request.outbox.lost)
        countdown_s = request.until_deadline_s(countdown_s)
        release = request_scripts.release(
            request.outbox.keys,
            self._settings.keys,
            worker=self._worker,
            epoch=request.outbox.epoch,
            due_in_ms=int(countdown_s * 1000),
            check_after_ms=int(self._settings.wakeup_retry_s * 1000),
            waits_for=reason if countdown_s else "",
            ttl_s=self._settings.request_ttl_s,
        )
        await retry_until_available(lambda: release.run_async(self._redis))
        return RunResult("retry", reason=reason, countdown_s=countdown_s)

    async def _finish(self, request: ClaimedRequest, state: State, **more: Any) -> RunResult:
        """Write the last event and wait until Redis has acknowledged it."""
        message, ended_ms = request.message, now_ms()
        if state == State.DONE:
            for line, data in missing_end(message):
                logger.info("request %s is complete; only its message_stop was lost", request.id)
                request.outbox.add(line, data)
                more["message_stop"] = "lost"
        end = end_event(request, state, ended_ms, more)
        request.outbox.end(
            end,
            ended_ms=ended_ms,
            usage=orjson.dumps(end["usage"]),
            stop_reason=message.stop_reason or "",
            **({"error": orjson.dumps(more["error"])} if "error" in more else {}),
        )
        await self._publisher.drain(request.outbox)
        if request.outbox.lost:
            return RunResult("skipped", reason=request.outbox.lost)
        return ended(end)


async def _cancel_task(task: "asyncio.Task[None]") -> None:
    """Cancel a task until it ends: redis-py can swallow a cancellation (Python 3.11)."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)
    # It may also have ended by an error, such as that of a connection that Redis closed.
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a canceled stream ended with %s", type(error).__name__)
