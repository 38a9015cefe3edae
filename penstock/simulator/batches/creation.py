"""POST /v1/messages/batches, with the faults of creating a batch."""

import asyncio
import math
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from penstock.simulator import limits, request_json
from penstock.simulator.batches.evaluation import evaluate
from penstock.simulator.batches.scan import scan
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import Batch, PackedLines, now_utc
from penstock.simulator.errors import ApiError, invalid
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.fault import Fault, raise_status
from penstock.simulator.messages import validation

MAX_BODY = 256_000_000
MAX_REQUESTS = 100_000

_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
#: Requests packed before the event loop serves other connections.
_REQUESTS_PER_TURN = 1000


@dataclass(frozen=True)
class NewBatch:
    """A request body that can become a batch."""

    custom_ids: PackedLines
    lines: PackedLines
    version: str
    betas: str


async def create(exchange: Exchange, state: BatchState, fault: Fault | None) -> Batch | None:
    """Create a batch. Its params are checked later, and refused only in its results.

    Returns None when a fault has cut the connection. Raises `ApiError`, also when a fault asks for
    an error after the batch has been created.
    """
    fault = fault or Fault()
    is_delayed = fault.commit_after_s is not None
    if not is_delayed:
        raise_status(fault)
        if fault.drop_before_commit:
            await exchange.disconnect(reset=bool(fault.reset))
            return None
    new = await _parse(exchange, quick=bool(state.options.quick_create))
    _check_limits(state, len(new.custom_ids))
    if is_delayed:
        # The batch is created even if the client disconnects.
        delayed = state.background.start(_commit_after(state, new, fault.commit_after_s or 0.0))
        raise_status(fault)
        if fault.drop_before_commit:
            await exchange.disconnect(reset=bool(fault.reset))
            return None
        await asyncio.wait({delayed})
        if delayed.cancelled():
            raise ApiError("api_error", "The simulator was reset before the batch was created.")
        batch = delayed.result()
    else:
        batch = _commit(state, new)
    if fault.commit_then_drop:
        await exchange.disconnect(reset=bool(fault.reset))
        return None
    raise_status(replace(fault, status=fault.commit_then_status))
    return batch


async def _commit_after(state: BatchState, new: NewBatch, delay_s: float) -> Batch:
    await asyncio.sleep(delay_s)
    return _commit(state, new)


def _commit(state: BatchState, new: NewBatch) -> Batch:
    now, options = now_utc(), state.options
    batch = Batch(
        id=state.new_id("msgbatch"),
        created_at=now,
        ends_at=now + timedelta(seconds=options.batch_seconds),
        custom_ids=new.custom_ids,
        lines=new.lines,
        rendered=PackedLines() if options.prerender else None,
        version=new.version,
        betas=new.betas,
        answer_bytes=options.batch_answer_bytes,
        mark=bool(options.mark),
    )
    state.batches.add(batch)
    state.stats.batches_created += 1
    state.stats.batch_requests_created += batch.total
    state.background.start(evaluate(batch, state), name=batch.id)
    return batch


def _check_limits(state: BatchState, count: int) -> None:
    now = now_utc()
    found = state.batches.in_progress(now)
    queued = sum(batch.total for batch in found)
    limits.check_batch_limits(
        state.options,
        active=len(found),
        queued=queued,
        new=count,
        wait_s=_seconds_to_next_end(found, now),
    )


def _seconds_to_next_end(found: list[Batch], now: datetime) -> int:
    """Whole seconds until the next batch is due to end, from 1 to 60."""
    left = min(((batch.ends_at - now).total_seconds() for batch in found), default=0.0)
    return min(60, max(1, math.ceil(left)))


async def _parse(exchange: Exchange, *, quick: bool) -> NewBatch:
    """The parsed body. Raises `ApiError` for what the API refuses immediately."""
    version = validation.check_version(exchange.headers)
    betas = exchange.headers.get("anthropic-beta", "")
    found = scan(exchange.body) if quick else None
    if found is not None and len(found[0]) <= MAX_REQUESTS:
        return NewBatch(*found, version, betas)
    requests = _requests(exchange.body)
    exchange.body = bytearray()
    custom_ids, lines = PackedLines(), PackedLines()
    for place, request in enumerate(requests):
        custom_ids.append(request["custom_id"].encode())
        lines.append(request_json.dumps(request))
        requests[place] = None
        if place % _REQUESTS_PER_TURN == 0:
            await asyncio.sleep(0)
    return NewBatch(custom_ids, lines, version, betas)


def _requests(raw: bytes | bytearray) -> list[Any]:
    """The requests of a body. Raises `ApiError` for what the API refuses immediately."""
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
