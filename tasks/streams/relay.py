"""Runs requests: from the claim to the last event.

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
import orjson

from config.settings import WorkerSettings
from penstock import events, json_text
from penstock.states import State
from penstock.store import request_scripts
from penstock.store.availability import retry_until_available
from penstock.store.connection import AsyncConnection
from tasks.retry import ControlSignal, Deferred
from tasks.streams.attempt import missing_end
from tasks.streams.calls import ApiCalls
from tasks.streams.claim import ClaimedRequest, NotClaimable
from tasks.streams.publish.publisher import Publisher
from tasks.streams.request_record import RecordFault
from tasks.streams.result import RequestFailed, RunResult, end_event, ended, minimal_end_event

logger = logging.getLogger(__name__)

#: Seconds to flush pending writes at shutdown.
SHUTDOWN_FLUSH_S: Final = 5.0


class _Interrupted(ControlSignal):
    """The stream was canceled or handed over, or another worker has claimed it."""


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
        self._publisher = publisher
        self._worker = worker
        self._calls = ApiCalls(settings, connection, api, publisher.notify)
        self._running: dict[str, ClaimedRequest] = {}
        self._closing = False

    async def run(self, id: str) -> RunResult:
        """Run a request until it ends, is deferred or is lost to another worker."""
        try:
            request = await retry_until_available(
                lambda: ClaimedRequest.claim(self._redis, self._settings, id, self._worker)
            )
        except NotClaimable as signal:
            return RunResult("skipped", reason=str(signal))
        except Deferred as signal:
            return RunResult("retry", reason=signal.reason, countdown_s=signal.countdown_s)
        request.hand_over = self._closing
        self._running[id] = request
        self._publisher.watch(request.outbox, request.interrupt.set)
        try:
            return await self._run_to_the_end(request)
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

    async def _run_to_the_end(self, request: ClaimedRequest) -> RunResult:
        """Run a claimed request. A bug ends it with an error: better it fails than hangs."""
        try:
            return await self._run_claimed(request)
        except Exception as error:
            logger.exception("request %s failed because of a bug in penstock", request.id)
            bug = f"{type(error).__name__} in the worker"
        try:
            return await self._finish(request, State.FAILED, error=_internal_error(bug))
        except Exception:
            logger.exception("the end of request %s could not be written", request.id)
            return await self._end_minimally(request, bug)

    async def _run_claimed(self, request: ClaimedRequest) -> RunResult:
        try:
            await self._interruptible(self._answer(request), request)
        except _Interrupted:
            return await self._conclude_interrupted(request)
        except Deferred as signal:
            return await self._requeue(request, signal.reason, signal.countdown_s)
        except (RequestFailed, RecordFault) as signal:
            return await self._finish(request, State.FAILED, error=signal.error)
        return await self._finish(request, State.DONE)

    async def _answer(self, request: ClaimedRequest) -> None:
        await retry_until_available(lambda: request.load(self._redis))
        await self._calls.until_complete(request)

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

    async def _conclude_interrupted(self, request: ClaimedRequest) -> RunResult:
        if request.outbox.lost:
            return await self._conclude_lost(request)
        if request.outbox.cancel:
            return await self._finish(request, State.CANCELED, by=request.outbox.cancel)
        reason = "handed over: its worker is shutting down"
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_FLUSH_S):
                return await self._requeue(request, reason, 0.0)
        # The lease will expire, and another worker will resume from the log.
        return RunResult("skipped", reason=f"{reason}, and Redis is unavailable")

    async def _conclude_lost(self, request: ClaimedRequest) -> RunResult:
        """Conclude a run whose outbox can no longer be written."""
        if request.outbox.fault:
            return await self._end_minimally(request, request.outbox.fault)
        return RunResult("skipped", reason=request.outbox.lost)

    async def _end_minimally(self, request: ClaimedRequest, bug: str) -> RunResult:
        """Write a last event that takes nothing from what could not be written."""
        self._publisher.unwatch(request.outbox)
        await retry_until_available(lambda: request.renew_outbox(self._redis))
        self._publisher.watch(request.outbox, request.interrupt.set)
        error, ended_ms = _internal_error(bug), request.now_ms
        end = minimal_end_event(request, ended_ms, error)
        request.outbox.end(end, ended_ms=ended_ms, error=json_text.dumps(error))
        await self._publisher.drain(request.outbox)
        if request.outbox.lost:
            # A worker loss is counted at the next claim, and bounds how often this happens.
            return RunResult("skipped", reason=request.outbox.lost)
        return ended(end)

    async def _requeue(self, request: ClaimedRequest, reason: str, countdown_s: float) -> RunResult:
        """Write everything, then release the claim, so that the next worker can resume."""
        request.end_attempt()
        await self._publisher.drain(request.outbox)
        if request.outbox.lost:
            return await self._conclude_lost(request)
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
        message, ended_ms = request.message, request.now_ms
        request.end_attempt()
        if state == State.DONE:
            for line, data in missing_end(message):
                logger.info("request %s is complete; only its message_stop was lost", request.id)
                request.outbox.add(line, data)
                more["message_stop"] = "lost"
        end = end_event(request, state, ended_ms, more)
        request.outbox.end(
            end,
            ended_ms=ended_ms,
            usage=json_text.dumps(end["usage"]),
            stop_reason=message.stop_reason or "",
            **({"error": json_text.dumps(more["error"])} if "error" in more else {}),
        )
        await self._publisher.drain(request.outbox)
        if request.outbox.lost:
            return await self._conclude_lost(request)
        return ended(end)


def _internal_error(bug: str) -> dict[str, Any]:
    return {"type": "internal_error", "message": bug}


async def _cancel_task(task: "asyncio.Task[None]") -> None:
    """Cancel a task until it ends: redis-py can swallow a cancellation (Python 3.11)."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)
    # It may also have ended by an error, such as that of a connection that Redis closed.
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a canceled stream ended with %s", type(error).__name__)
