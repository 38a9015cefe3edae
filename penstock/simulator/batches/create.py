"""POST /v1/messages/batches, and the ways in which its answer says less than what happened."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from penstock.simulator import limits
from penstock.simulator.batches.judge import judge
from penstock.simulator.batches.scan import scan
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import Batch, Lines, now_utc
from penstock.simulator.errors import ApiError, invalid
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.fault import Fault, refuse_if_asked
from penstock.simulator.messages import validation

MAX_BODY = 256_000_000
MAX_REQUESTS = 100_000

_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_TURN = 1000
"""Requests packed before other connections get their turn."""


@dataclass(frozen=True)
class Draft:
    """A batch that can be made."""

    custom_ids: Lines
    lines: Lines
    version: str
    betas: str


async def create(exchange: Exchange, state: BatchState, fault: Fault | None) -> Batch | None:
    """Make a batch; its params are looked at, but refused only in its results.

    Returns None when a fault has cut the connection. Raises ApiError, also for a
    batch that a fault has made all the same.
    """
    fault = fault or Fault()
    is_late = fault.commit_after_s is not None
    if not is_late:
        refuse_if_asked(fault)
        if fault.drop_before_commit:
            await exchange.drop(reset=bool(fault.reset))
            return None
    draft = await _draft(exchange, quick=bool(state.options.quick_create))
    _refuse_over_limits(state, len(draft.custom_ids))
    if is_late:
        # The client may leave, and the batch is made all the same.
        late = state.background.start(_commit_later(state, draft, fault.commit_after_s or 0.0))
        refuse_if_asked(fault)
        if fault.drop_before_commit:
            await exchange.drop(reset=bool(fault.reset))
            return None
        await asyncio.wait({late})
        if late.cancelled():
            raise ApiError("api_error", "The simulator was reset.")
        batch = late.result()
    else:
        batch = _commit(state, draft)
    if fault.commit_then_drop:
        await exchange.drop(reset=bool(fault.reset))
        return None
    refuse_if_asked(replace(fault, status=fault.commit_then_status))
    return batch


async def _commit_later(state: BatchState, draft: Draft, delay_s: float) -> Batch:
    await asyncio.sleep(delay_s)
    return _commit(state, draft)


def _commit(state: BatchState, draft: Draft) -> Batch:
    now, options = now_utc(), state.options
    batch = Batch(
        id=state.new_id("msgbatch"),
        created_at=now,
        ends_at=now + timedelta(seconds=options.batch_seconds),
        custom_ids=draft.custom_ids,
        lines=draft.lines,
        rendered=Lines() if options.prerender else None,
        version=draft.version,
        betas=draft.betas,
        answer_bytes=options.batch_answer_bytes,
    )
    state.batches.add(batch)
    state.stats.batches_created += 1
    state.stats.batch_requests_created += batch.total
    state.background.start(judge(batch, state), name=batch.id)
    return batch


def _refuse_over_limits(state: BatchState, new: int) -> None:
    now = now_utc()
    found = state.batches.open(now)
    queued = sum(batch.total for batch in found)
    limits.check_batches(
        state.options, active=len(found), queued=queued, new=new, wait_s=_until_next(found, now)
    )


def _until_next(found: list[Batch], now: datetime) -> int:
    """Return the whole seconds until a batch may end."""
    left = min(((batch.ends_at - now).total_seconds() for batch in found), default=0.0)
    return min(60, max(1, math.ceil(left)))


async def _draft(exchange: Exchange, *, quick: bool) -> Draft:
    """Read what was sent; raises ApiError for what is refused at once."""
    version = validation.check_version(exchange.headers)
    betas = exchange.headers.get("anthropic-beta", "")
    found = scan(exchange.body) if quick else None
    if found is not None and len(found[0]) <= MAX_REQUESTS:
        return Draft(*found, version, betas)
    requests = _requests(exchange.body)
    exchange.body = bytearray()
    custom_ids, lines = Lines(), Lines()
    for place, request in enumerate(requests):
        custom_ids.append(request["custom_id"].encode())
        lines.append(orjson.dumps(request))
        requests[place] = None
        if place % _TURN == 0:
            await asyncio.sleep(0)
    return Draft(custom_ids, lines, version, betas)


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
