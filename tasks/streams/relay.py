"""Carry one request from its record through the API to its readers.

claim → gate → call → publish every event → end. All streams of a process run here, on one event
loop. An answer that breaks off is gone on with, here or by whoever claims the request next: what
readers have is in the log, so any worker can continue it.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
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
from penstock.store.connection import Connection
from tasks.api.client import ApiProblem, problem_of
from tasks.api.message_stream import StreamInterrupted, open_stream
from tasks.api.retry import wait_s
from tasks.api.sse import SSEDecoder
from tasks.streams.attempt import Attempt, ending
from tasks.streams.claim import Postponed, Refused, Work
from tasks.streams.continuation import Mode, OnInterrupt, Plan, plan
from tasks.streams.publisher import Publisher
from tasks.streams.rate_limiter import Gate

logger = logging.getLogger(__name__)

#: Longest pause before a broken answer is gone on with; its readers are waiting.
MEND_MAX_WAIT_S: Final = 5.0
#: A worker that shuts down waits so long for Redis to take what it has.
LAST_WRITE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a wake-up went, for Celery and Flower. Never holds a prompt or an answer."""

    state: str  #: done · failed · canceled · retry · skipped
    summary: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  #: why it failed, was skipped, or is tried again
    countdown_s: float = 0.0  #: for ``retry``: when


class _Interrupted(Exception):
    """The stream was canceled or handed over, or is not ours any more."""


class _Failed(Exception):
    """The request cannot be answered."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["type"])
        self.error = error


class Relay:
    """Runs requests on the process's event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        connection: Connection,
        api: anthropic.AsyncAnthropic,
        publisher: Publisher,
        worker: str,
    ) -> None:
        self._settings = settings
        self._redis = connection
        self._api = api
        self._publisher = publisher
        self._worker = worker
        self._gate = Gate(connection, settings.keys)
        self._running: dict[str, Work] = {}
        self._refuse_prefill: set[str] = set()  # models that said so
        self._closing = False

    async def run(self, id: str) -> Outcome:
        """Take a request as far as it goes; returns what became of it."""
        try:
            work = await Work.claim(self._redis, self._settings, id, self._worker)
        except Refused as refused:
            return Outcome("skipped", reason=str(refused))
        except Postponed as later:
            return Outcome("retry", reason=str(later), countdown_s=later.countdown_s)
        work.hand_over = self._closing
        self._running[id] = work
        self._publisher.watch(work.outbox, work.interrupt.set)
        try:
            return await self._answer(work)
        finally:
            self._running.pop(id, None)
            self._publisher.forget(work.outbox)

    async def cancel(self, id: str, who: str) -> None:
        """Cancel a request, wherever it is."""
        keys, shared = self._settings.keys.request(id), self._settings.keys
        end = {"type": events.END, "state": State.CANCELED, "stop_reason": None, "by": who}
        await request_scripts.cancel(
            keys,
            shared,
            who=who,
            end_event=orjson.dumps(end),
            retention_s=self._settings.retention_s,
        ).run_async(self._redis)
        self._publisher.look(id)

    def hand_over(self) -> None:
        """Give all running streams back to the queue at once: this worker shuts down."""
        self._closing = True
        for work in self._running.values():
            work.hand_over = True
            work.interrupt.set()

    async def _answer(self, work: Work) -> Outcome:
        try:
            await self._interruptible(self._until_complete(work), work)
        except _Interrupted:
            return await self._interrupted(work)
        except Postponed as later:
            return await self._back_to_queue(work, str(later), later.countdown_s)
        except _Failed as failed:
            return await self._finish(work, State.FAILED, error=failed.error)
        except Exception as error:
            # Ours, not the API's. A request that fails is better than one that hangs.
            logger.exception("request %s failed by an error of penstock", work.id)
            bug = {"type": "internal_error", "message": f"{type(error).__name__} in the worker"}
            return await self._finish(work, State.FAILED, error=bug)
        return await self._finish(work, State.DONE)

    async def _interruptible(self, running: Coroutine[Any, Any, None], work: Work) -> None:
        """Run it until it ends or is interrupted; an interrupt closes its connection."""
        if work.outbox.cancel or work.hand_over:
            running.close()
            raise _Interrupted
        task = asyncio.create_task(running)
        interrupt = asyncio.ensure_future(work.interrupt.wait())
        try:
            await asyncio.wait({task, interrupt}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await _ended(task)
                raise _Interrupted
            await task
        finally:
            interrupt.cancel()

    async def _until_complete(self, work: Work) -> None:
        """Call the API until the answer is complete."""
        if work.answer.complete:
            return  # the worker that was lost had only not written the last event
        body = self._startable(work)
        broken: StreamInterrupted | None = None
        while not work.answer.complete:
            reason = str(broken.error["type"]) if broken else "takeover"
            if broken is not None:
                self._mendable(work, broken)
                wait = wait_s(work.attempts, None, MEND_MAX_WAIT_S, jitter())
                await asyncio.sleep(wait)
            broken = await self._attempt(work, body, reason)

    def _startable(self, work: Work) -> dict[str, Any]:
        """The body. Raises `_Failed` for a request that must not be called (any more)."""
        if work.body is None:
            raise _Failed({"type": "not_found_error", "message": "the request's body has expired"})
        if work.deadline_ms and now_ms() > work.deadline_ms and not work.attempts:
            message = "its deadline passed while it waited; no tokens were spent"
            raise _Failed({"type": "deadline_exceeded", "message": message})
        if work.worker_losses >= self._settings.max_worker_losses:
            message = f"{work.worker_losses} workers were lost while they ran this request"
            raise _Failed({"type": "worker_lost", "message": message})
        if work.attempts and work.on_interrupt is OnInterrupt.FAIL:
            raise _Failed({"type": "worker_lost", "message": "the worker was lost"})
        return work.body

    def _mendable(self, work: Work, broken: StreamInterrupted) -> None:
        """Raises `_Failed` where a broken answer is not to be gone on with."""
        exhausted = (
            work.attempts >= self._settings.max_attempts
            or work.age_s > self._settings.stream_total_timeout_s
        )
        if work.on_interrupt is OnInterrupt.FAIL or not broken.transient or exhausted:
            raise _Failed(broken.error)

    async def _attempt(
        self, work: Work, body: dict[str, Any], reason: str
    ) -> StreamInterrupted | None:
        """One call; returns how it broke off, None if it is complete."""
        await self._wait_for_turn(work)
        prefill = takes_prefill(work.model, self._settings.prefill)
        prefill = prefill and work.model not in self._refuse_prefill
        planned = plan(work.answer, body, work.on_interrupt, prefill=prefill)
        try:
            async with open_stream(self._api, planned.body, work.headers) as call:
                work.start_attempt()
                self._announce(work, planned, reason)
                work.api_request_ids.append(call.headers.get("request-id", ""))
                await self._gate.report(work.model, work.id, call.headers)
                await self._relay(work, planned, call.chunks())
        except StreamInterrupted as broken:
            return broken
        except asyncio.CancelledError:
            self._gate.call_off(work.model, work.id)
            raise
        except (anthropic.APIError, httpx2.HTTPError) as error:
            await self._refused(work, planned, error)
        return None

    def _announce(self, work: Work, planned: Plan, reason: str) -> None:
        """Tell readers that an attempt goes on with, or anew, what they have."""
        if work.attempts == 1:
            return
        outbox, answer = work.outbox, work.answer
        resume = {"mode": planned.mode, "attempt": work.attempts, "reason": reason}
        outbox.add_own({"type": events.ATTEMPT, **resume})
        if planned.rewind:
            index, offset = planned.rewind
            before = len(answer.text)
            answer.apply({"type": events.REWIND, "index": index, "offset": offset})
            text = answer.text
            outbox.rewind(index, offset, left=text if len(text) < before else None)
        self._publisher.notify(outbox)

    async def _relay(self, work: Work, planned: Plan, chunks: Any) -> None:
        """Hand every event to the outbox as it arrives. Raises `StreamInterrupted`."""
        decoder, outbox, answer = SSEDecoder(), work.outbox, work.answer
        attempt = Attempt(planned, answer, work.usage)
        async for chunk in chunks:
            for raw in decoder.feed(chunk):
                for line, data in attempt.take(raw):
                    outbox.add(line, data)
            if answer.has_delta and work.first_delta_ms is None:
                work.first_delta_ms = now_ms() - work.started_ms
                outbox.note(first_delta_ms=work.first_delta_ms)
            if attempt.noted:
                outbox.note(spent=orjson.dumps(work.usage.total))
                attempt.noted = False
            self._publisher.notify(outbox)
            if answer.stopped:
                break  # not at the end of the body: a proxy may keep the connection open
        if not answer.complete:
            raise StreamInterrupted(
                "incomplete_stream", "the connection was closed before the answer was complete"
            )

    async def _wait_for_turn(self, work: Work) -> None:
        """Ask the rate gate. Raises `Postponed`: a request that waits holds no slot."""
        wait = await self._gate.wait_s(work.model, work.id)
        if wait > 0:
            raise Postponed("waiting for its turn at the API's rate limit", wait)

    async def _refused(self, work: Work, planned: Plan, error: Exception) -> None:
        """The API gave no answer: raises `Postponed` or `_Failed`, or returns to try otherwise."""
        problem = problem_of(error)
        headers = getattr(getattr(error, "response", None), "headers", {})
        await self._gate.report(
            work.model,
            work.id,
            headers,
            refused=problem.status in (429, 529) and problem.retryable,
            retry_after_s=problem.retry_after,
        )
        if planned.mode is Mode.PREFILL and problem.status == 400 and "prefill" in problem.message:
            self._refuse_prefill.add(work.model)
            return
        if not problem.retryable:
            raise _Failed(problem.as_error())
        keys = work.outbox.keys
        counted = await retry_until_available(
            lambda: self._redis.hincrby(keys.meta, "api_retries", 1)
        )
        refusals = int(counted)
        if refusals >= self._settings.max_api_retries:
            raise _Failed(_counted(problem, refusals))
        longest = self._settings.api_retry_max_wait_s
        raise Postponed(str(problem), wait_s(refusals, problem.retry_after, longest, jitter()))

    async def _interrupted(self, work: Work) -> Outcome:
        if work.outbox.lost:
            return Outcome("skipped", reason=work.outbox.lost)
        if work.outbox.cancel:
            return await self._finish(work, State.CANCELED, by=work.outbox.cancel)
        reason = "handed over: its worker is shutting down"
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_S):
                return await self._back_to_queue(work, reason, 0.0)
        # Redis is away. The lease runs out, and another worker goes on with what stands there.
        return Outcome("skipped", reason=f"{reason}, and Redis is away")

    async def _back_to_queue(self, work: Work, reason: str, countdown_s: float) -> Outcome:
        """Give up the claim with everything written, so that the next one can go on."""
        await self._publisher.drain(work.outbox)
        if work.outbox.lost:
            return Outcome("skipped", reason=work.outbox.lost)
        release = request_scripts.release(
            work.outbox.keys,
            self._settings.keys,
            worker=self._worker,
            epoch=work.outbox.epoch,
            due_in_ms=int(countdown_s * 1000),
            check_after_ms=int(self._settings.wakeup_retry_s * 1000),
        )
        await retry_until_available(lambda: release.run_async(self._redis))
        return Outcome("retry", reason=reason, countdown_s=countdown_s)

    async def _finish(self, work: Work, state: State, **more: Any) -> Outcome:
        """Write the last event and wait until it stands."""
        answer, ended_ms = work.answer, now_ms()
        if state == State.DONE:
            for line, data in ending(answer):
                logger.info("request %s is complete, though its message_stop was lost", work.id)
                work.outbox.add(line, data)
                more["message_stop"] = "lost"
        usage = work.usage.total
        end: dict[str, Any] = {
            "state": state,
            "stop_reason": answer.stop_reason,
            "usage": usage,
            "characters": len(answer.text),
            "text_sha256": answer.text_sha256,
            "first_delta_ms": work.first_delta_ms,
            "total_ms": ended_ms - work.started_ms,
            "attempts": work.attempts,
            "api_request_ids": [id for id in work.api_request_ids if id],
            **more,
        }
        work.outbox.end(
            end,
            ended_ms=ended_ms,
            usage=orjson.dumps(usage),
            stop_reason=answer.stop_reason or "",
            **({"error": orjson.dumps(more["error"])} if "error" in more else {}),
        )
        await self._publisher.drain(work.outbox)
        if work.outbox.lost:
            return Outcome("skipped", reason=work.outbox.lost)
        return Outcome(state, _summary(end), reason=_reason(more.get("error")))


async def _ended(task: "asyncio.Task[None]") -> None:
    """Cancel a task, and again: Python 3.11's `wait_for`, which redis-py uses, can swallow it."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)


def _counted(problem: ApiProblem, refusals: int) -> dict[str, Any]:
    error = problem.as_error()
    error["message"] += f" (refused {refusals} times)"
    return error


def _reason(error: dict[str, Any] | None) -> str:
    """Why a stream did not end well, without the API's words: they may quote the request."""
    if error is None:
        return ""
    status = f" (HTTP {error['status']})" if "status" in error else ""
    request = f", request {error['request_id']}" if "request_id" in error else ""
    return f"{error['type']}{status}{request}"


def _summary(end: dict[str, Any]) -> dict[str, Any]:
    """What Flower shows of a stream that has ended."""
    return {
        "kind": "stream",
        "state": str(end["state"]),
        "stop_reason": end["stop_reason"],
        "input_tokens": end["usage"].get("input_tokens"),
        "output_tokens": end["usage"].get("output_tokens"),
        "first_delta_ms": end["first_delta_ms"],
        "total_ms": end["total_ms"],
        "attempts": end["attempts"],
    }
