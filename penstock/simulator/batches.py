"""The endpoints under /v1/messages/batches."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import orjson

from . import batch_lines, validation
from .batch_store import Batch, Lines, now_utc
from .errors import invalid, not_found
from .exchange import Exchange
from .faults import Fault
from .state import State

MAX_BODY = 256_000_000
MAX_REQUESTS = 100_000

_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_WRITE_BYTES = 64 * 1024
_TURN = 100
"""Requests checked before other connections get their turn."""


async def create(exchange: Exchange, state: State, fault: Fault | None) -> None:
    """Accept a batch; its params are looked at, but refused only in its results."""
    if fault and fault.drop_before_commit:
        await exchange.drop(reset=bool(fault.reset))
        return
    version = validation.check_version(exchange.headers)
    requests = _requests(exchange.body)
    exchange.body = b""
    betas = exchange.headers.get("anthropic-beta", "")
    lines, outcomes = Lines(), bytearray()
    for place, request in enumerate(requests):
        lines.append(orjson.dumps(request))
        outcomes.append(batch_lines.judge(request["params"], version, betas))
        requests[place] = None
        if place % _TURN == 0:
            await asyncio.sleep(0)
    now = now_utc()
    batch = Batch(
        id=state.new_id("msgbatch"),
        created_at=now,
        ends_at=now + timedelta(seconds=state.options.batch_seconds),
        lines=lines,
        outcomes=bytes(outcomes),
        version=version,
        betas=betas,
    )
    state.batches.add(batch)
    state.stats.batches_created += 1
    state.stats.batch_requests_created += len(lines)
    if fault and fault.commit_then_drop:
        await exchange.drop(reset=bool(fault.reset))
        return
    await exchange.reply(batch.as_dict(_base_url(exchange)))


async def retrieve(exchange: Exchange, state: State, batch_id: str) -> None:
    """Show a batch."""
    batch = _found(state, batch_id)
    headers = {}
    if batch.ended_at is None:
        left = (batch.ends_at - now_utc()).total_seconds()
        headers["retry-after"] = str(min(10, max(1, math.ceil(left))))
    await exchange.reply(batch.as_dict(_base_url(exchange)), headers=headers)


async def list_all(exchange: Exchange, state: State) -> None:
    """Show a page of batches, newest first."""
    after_id, before_id = exchange.query.get("after_id"), exchange.query.get("before_id")
    if after_id and before_id:
        raise invalid("Only one of `after_id` and `before_id` may be given.")
    limit = exchange.query.get("limit", "20")
    if not limit.isdecimal():
        raise invalid(
            "limit: Input should be a valid integer, unable to parse string as an integer"
        )
    if not 1 <= int(limit) <= 1000:
        bound = "greater than or equal to 1" if int(limit) < 1 else "less than or equal to 1000"
        raise invalid(f"limit: Input should be {bound}")
    page = state.batches.page(now_utc(), limit=int(limit), after_id=after_id, before_id=before_id)
    if page is None:
        raise not_found(f"Message Batch {after_id or before_id} not found.")
    data = [batch.as_dict(_base_url(exchange)) for batch in page[0]]
    await exchange.reply(
        {
            "data": data,
            "has_more": page[1],
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
        }
    )


async def cancel(exchange: Exchange, state: State, batch_id: str) -> None:
    """Begin to cancel a batch; one that has ended stays as it is."""
    batch = _found(state, batch_id)
    if batch.status == "in_progress":
        batch.cancel(now_utc())
        state.stats.batches_canceled += 1
    await exchange.reply(batch.as_dict(_base_url(exchange)))


async def delete(exchange: Exchange, state: State, batch_id: str) -> None:
    """Delete a batch that has ended."""
    if _found(state, batch_id).ended_at is None:
        raise invalid(
            "In progress batches cannot be deleted. Consider canceling the batch instead."
        )
    state.batches.delete(batch_id)
    await exchange.reply({"id": batch_id, "type": "message_batch_deleted"})


async def results(exchange: Exchange, state: State, batch_id: str, fault: Fault | None) -> None:
    """Send the results, made while they are sent."""
    batch = _found(state, batch_id)
    if batch.ended_at is None or batch.archived_at:
        raise not_found(f"Message Batch {batch_id} has no available results.")
    await exchange.start(200, {"content-type": "application/x-jsonl"})

    async def send() -> None:
        left = fault.results_cut if fault else None
        async for data in _rendered(batch):
            if left is not None and left <= len(data):
                await exchange.write(data[:left])
                await exchange.drop(reset=bool(fault and fault.reset))
                return
            left = None if left is None else left - len(data)
            await exchange.write(data)
        state.stats.results_served += 1
        await exchange.end()

    if not await exchange.run(send()):
        state.stats.client_disconnects += 1


async def _rendered(batch: Batch) -> AsyncIterator[bytes]:
    """Yield the results in pieces of whole lines."""
    piece = bytearray()
    for place, (line, outcome) in enumerate(batch.results()):
        message_id = f"msg_{batch.id[9:]}{place:06d}"
        piece += batch_lines.render(
            line, outcome, batch.version, batch.betas, message_id=message_id
        )
        if len(piece) >= _WRITE_BYTES:
            yield bytes(piece)
            piece.clear()
            await asyncio.sleep(0)
    yield bytes(piece)


def _requests(raw: bytes | bytearray) -> list[Any]:
    """Return the requests of a batch; raises ApiError for what is refused at once."""
    requests = validation.parse_json(raw).get("requests")
    if requests is None:
        raise invalid("requests: Field required")
    if not isinstance(requests, list):
        raise invalid("requests: Input should be a valid list")
    if not requests:
        raise invalid("requests: List should have at least 1 item after validation, not 0")
    if len(requests) > MAX_REQUESTS:
        raise invalid(
            f"requests: List should have at most {MAX_REQUESTS} items after validation, "
            f"not {len(requests)}"
        )
    seen: set[str] = set()
    for place, request in enumerate(requests):
        seen.add(_custom_id(request, place, seen))
    return requests


def _custom_id(request: Any, place: int, seen: set[str]) -> str:
    where = f"requests.{place}"
    if not isinstance(request, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    for name in ("custom_id", "params"):
        if name not in request:
            raise invalid(f"{where}.{name}: Field required")
    custom_id = request["custom_id"]
    if not isinstance(custom_id, str):
        raise invalid(f"{where}.custom_id: Input should be a valid string")
    if len(custom_id) > 64:
        raise invalid(f"{where}.custom_id: String should have at most 64 characters")
    if not _CUSTOM_ID.match(custom_id):
        raise invalid(f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
    if custom_id in seen:
        raise invalid(
            f"requests: custom_id's must be unique within a batch. "
            f"Duplicate custom_id found: {custom_id}"
        )
    return custom_id


def _found(state: State, batch_id: str) -> Batch:
    batch = state.batches.get(batch_id, now_utc())
    if batch is None:
        raise not_found(f"Message Batch {batch_id} not found.")
    return batch


def _base_url(exchange: Exchange) -> str:
    """Return the address the client reached us by, so that it reaches the results there too."""
    return f"{exchange.scheme}://{exchange.headers.get('host', 'localhost')}"
