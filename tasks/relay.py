"""Carry one request from its record through the API to its readers.

claim → call the API → publish every event → end. All streams of a process run here, on one
event loop. A record that somebody else holds, or that has ended, is left alone, so a wake-up
that comes twice does nothing the second time.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx2
import orjson

from config.settings import WorkerSettings
from penstock.connection import Connection
from penstock.keys import RequestKeys
from penstock.records import now_ms
from penstock.scripts import script
from penstock.states import State
from tasks.answer import Answer, StreamBroken
from tasks.api import ApiProblem, problem_of
from tasks.outbox import Outbox
from tasks.publisher import Publisher
from tasks.refusals import wait_s
from tasks.sse import SSEDecoder


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a wake-up went, for Celery and Flower. Never holds a prompt or an answer."""

    state: str  #: done · failed · canceled · retry · skipped
    summary: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  #: why it failed, was skipped, or is tried again
    countdown_s: float = 0.0  #: for ``retry``: when


class Interrupted(Exception):
    """The stream was canceled, or is not ours any more."""


@dataclass(slots=True)
class _Work:
    """One claimed request while it runs."""

    id: str
    outbox: Outbox
    answer: Answer
    claimed_ms: int
    first_delta_ms: int | None = None
    api_request_id: str = ""


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

    async def run(self, id: str) -> Outcome:
        """Take a request as far as it goes; returns what became of it."""
        keys = self._settings.keys.request(id)
        claim = await script("claim").run(
            self._redis,
            [keys.meta, keys.lease],
            [self._worker, self._settings.lease_ms, now_ms()],
        )
        if claim[0] != b"claimed":
            return Outcome("skipped", reason=_why_not(claim))
        work = await self._prepare(id, keys, epoch=claim[1], n=claim[2])
        work.outbox.cancel = claim[3].decode()
        task = asyncio.current_task()
        assert task is not None
        interrupt = asyncio.Event()
        self._publisher.watch(work.outbox, interrupt.set)
        try:
            return await self._attempt(work, keys, interrupt)
        finally:
            self._publisher.forget(work.outbox)

    async def cancel(self, id: str, who: str) -> None:
        """Cancel a request that runs here; its next write sees the flag at the latest."""
        keys = self._settings.keys.request(id)
        await script("cancel").run(self._redis, [keys.meta], [who])
        self._publisher.look(id)

    async def _prepare(self, id: str, keys: RequestKeys, *, epoch: int, n: int) -> _Work:
        typed = await self._redis.hget(keys.meta, "typed")
        outbox = Outbox(
            keys,
            epoch=epoch,
            n=n,
            ttl_s=self._settings.request_ttl_s,
            retention_s=self._settings.retention_s,
            typed=typed == b"1",
        )
        return _Work(id, outbox, Answer(), claimed_ms=now_ms())

    async def _attempt(self, work: _Work, keys: RequestKeys, interrupt: asyncio.Event) -> Outcome:
        body = await self._redis.get(keys.request)
        if body is None:
            return await self._fail(work, {"type": "not_found_error", "message": "body expired"})
        try:
            await self._interruptible(self._stream(work, orjson.loads(body)), interrupt, work)
        except Interrupted:
            return await self._interrupted(work)
        except StreamBroken as broken:
            return await self._fail(work, broken.error)
        except (anthropic.APIError, httpx2.HTTPError) as error:
            return await self._refused(work, problem_of(error))
        return await self._finish(work, State.DONE)

    async def _interruptible(self, stream: Any, interrupt: asyncio.Event, work: _Work) -> None:
        """Run ``stream`` until it ends or is interrupted; an interrupt closes its connection."""
        if work.outbox.cancel:
            stream.close()
            raise Interrupted
        streaming = asyncio.ensure_future(stream)
        interrupted = asyncio.ensure_future(interrupt.wait())
        try:
            await asyncio.wait({streaming, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if not streaming.done():
                streaming.cancel()
                await asyncio.wait({streaming})
                raise Interrupted
            await streaming
        finally:
            interrupted.cancel()

    async def _stream(self, work: _Work, body: dict[str, Any]) -> None:
        """Call the API and hand every event to the outbox as it arrives."""
        decoder, outbox, answer = SSEDecoder(), work.outbox, work.answer
        async for chunk in self._chunks(work, body):
            for raw in decoder.feed(chunk):
                data = orjson.loads(raw)
                if answer.apply(data):
                    outbox.add(raw, data)
                if answer.has_delta and work.first_delta_ms is None:
                    work.first_delta_ms = now_ms()
            self._publisher.notify(outbox)
            if answer.stopped:
                break  # not at the end of the body: a proxy may keep the connection open
        if not answer.complete:
            raise StreamBroken(
                "incomplete_stream", "the connection was closed before the answer was complete"
            )

    async def _chunks(self, work: _Work, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """The raw bytes of the answer. The body goes out as the producer wrote it: `extra_body`
        replaces the SDK's own arguments, which would only be transformed again."""
        call = self._api.messages.with_streaming_response.create(
            model=body["model"],
            max_tokens=body["max_tokens"],
            messages=[],
            stream=True,
            extra_body=body,
            # gzip would hold deltas back until its block is full
            extra_headers={"Accept-Encoding": "identity"},
        )
        async with call as response:
            work.api_request_id = response.headers.get("request-id", "")
            try:
                async for chunk in response.iter_bytes():
                    yield chunk
            except httpx2.TransportError as error:
                # The SDK lets these through as they are once the body has begun.
                name = type(error).__name__
                raise StreamBroken("connection_error", f"the stream broke off: {name}") from error

    async def _interrupted(self, work: _Work) -> Outcome:
        if work.outbox.lost:
            return Outcome("skipped", reason=work.outbox.lost)
        return await self._finish(work, State.CANCELED, by=work.outbox.cancel)

    async def _refused(self, work: _Work, problem: ApiProblem) -> Outcome:
        """The API gave no answer at all: back to the queue, or the end."""
        if not problem.passing:
            return await self._fail(work, problem.as_error())
        keys = work.outbox.keys
        refusals = int(await self._redis.hincrby(keys.meta, "refusals", 1))
        if refusals >= self._settings.refusals_limit:
            error = problem.as_error()
            error["message"] += f" (refused {refusals} times)"
            return await self._fail(work, error)
        await script("release").run(
            self._redis, [keys.meta, keys.lease], [self._worker, work.outbox.epoch]
        )
        wait = wait_s(
            refusals,
            problem.retry_after,
            self._settings.refusal_max_wait_s,
            random.random(),  # noqa: S311 - spreads load, guards nothing
        )
        return Outcome("retry", reason=str(problem), countdown_s=wait)

    async def _fail(self, work: _Work, error: dict[str, Any]) -> Outcome:
        return await self._finish(work, State.FAILED, error=error)

    async def _finish(self, work: _Work, state: State, **more: Any) -> Outcome:
        """Write the last event and wait until it stands."""
        answer, ended_ms = work.answer, now_ms()
        first = None if work.first_delta_ms is None else work.first_delta_ms - work.claimed_ms
        end: dict[str, Any] = {
            "state": state,
            "stop_reason": answer.stop_reason,
            "usage": answer.usage,
            "characters": answer.characters,
            "text_sha256": answer.text_sha256,
            "first_delta_ms": first,
            "total_ms": ended_ms - work.claimed_ms,
            **({"api_request_id": work.api_request_id} if work.api_request_id else {}),
            **more,
        }
        work.outbox.end(
            end,
            ended_ms=ended_ms,
            usage=orjson.dumps(answer.usage),
            stop_reason=answer.stop_reason or "",
            **({"error": orjson.dumps(more["error"])} if "error" in more else {}),
        )
        await self._publisher.drain(work.outbox)
        # The body and the lease are not part of the write: they only have to go away in time.
        await self._redis.expire(work.outbox.keys.request, self._settings.retention_s)
        if work.outbox.lost:
            return Outcome("skipped", reason=work.outbox.lost)
        return Outcome(state, _summary(work, end), reason=_reason(more))


def _why_not(claim: list[Any]) -> str:
    """The claim script's refusal in words."""
    words = {
        b"gone": "its record has expired or was deleted",
        b"ended": "it has ended already",
        b"leased": "another worker is at it",
    }
    return words[claim[0]]


def _reason(more: dict[str, Any]) -> str:
    """Why a stream did not end well, without the API's words: they may quote the request."""
    error = more.get("error")
    if error is None:
        return ""
    status = f" (HTTP {error['status']})" if "status" in error else ""
    request = f", request {error['request_id']}" if "request_id" in error else ""
    return f"{error['type']}{status}{request}"


def _summary(work: _Work, end: dict[str, Any]) -> dict[str, Any]:
    """What Flower shows of a stream that has ended."""
    return {
        "kind": "stream",
        "state": str(end["state"]),
        "stop_reason": end["stop_reason"],
        "input_tokens": work.answer.usage.get("input_tokens"),
        "output_tokens": work.answer.usage.get("output_tokens"),
        "first_delta_ms": end["first_delta_ms"],
        "total_ms": end["total_ms"],
    }
