"""The endpoints under /v1/messages/batches."""

import math
from collections.abc import Mapping
from typing import Any

from penstock.simulator.batches import creation
from penstock.simulator.batches.results import send_results
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import Batch, now_utc
from penstock.simulator.errors import invalid, not_found
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.fault import Fault
from penstock.simulator.faults.odd_batches import odd


async def create(exchange: Exchange, state: BatchState, fault: Fault | None) -> None:
    """Create a batch and send it."""
    batch = await creation.create(exchange, state, fault)
    if batch is None:
        return
    if fault and fault.drop_headers:
        await exchange.drop_headers(fault.drop_headers)
        return
    await _reply(exchange, batch.as_dict(_base_url(exchange)), fault)


async def retrieve(
    exchange: Exchange, state: BatchState, batch_id: str, fault: Fault | None
) -> None:
    """Send a batch."""
    batch = _found(state, batch_id)
    headers = {}
    if batch.ended_at is None:
        left = (batch.ends_at - now_utc()).total_seconds()
        headers["retry-after"] = str(min(10, max(1, math.ceil(left))))
    shown = batch.as_dict(_base_url(exchange))
    if fault and fault.results_lag:
        shown["results_url"] = None
    await _reply(exchange, shown, fault, headers)


async def list_all(exchange: Exchange, state: BatchState, fault: Fault | None) -> None:
    """Send a page of batches, newest first."""
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
    page = state.batches.page(
        now_utc(),
        limit=int(limit),
        after_id=after_id,
        before_id=before_id,
        lag_s=state.options.list_consistency_s,
    )
    if page is None:
        raise not_found(f"Message Batch {after_id or before_id} not found.")
    data = [batch.as_dict(_base_url(exchange)) for batch in page[0]]
    shown = {
        "data": data,
        "has_more": page[1],
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
    await _reply(exchange, shown, fault)


async def cancel(exchange: Exchange, state: BatchState, batch_id: str) -> None:
    """Start to cancel a batch. One that has ended stays as it is."""
    batch = _found(state, batch_id)
    if batch.status == "in_progress":
        batch.cancel(now_utc())
        state.stats.batches_canceled += 1
    await exchange.reply(batch.as_dict(_base_url(exchange)))


async def delete(exchange: Exchange, state: BatchState, batch_id: str) -> None:
    """Delete a batch that has ended."""
    if _found(state, batch_id).ended_at is None:
        raise invalid(
            "In progress batches cannot be deleted. Consider canceling the batch instead."
        )
    state.batches.delete(batch_id)
    await exchange.reply({"id": batch_id, "type": "message_batch_deleted"})


async def results(
    exchange: Exchange, state: BatchState, batch_id: str, fault: Fault | None
) -> None:
    """Send the results of a batch."""
    await send_results(exchange, state, _found(state, batch_id), fault)


async def _reply(
    exchange: Exchange,
    shown: dict[str, Any],
    fault: Fault | None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Send a batch or a page of batches, made odd where a fault asks for it."""
    name = fault.odd_batch if fault else None
    await exchange.reply_json(odd(name, shown), headers=headers)


def _found(state: BatchState, batch_id: str) -> Batch:
    batch = state.batches.get(batch_id, now_utc())
    if batch is None:
        raise not_found(f"Message Batch {batch_id} not found.")
    return batch


def _base_url(exchange: Exchange) -> str:
    """The address by which the client reached this server, for `results_url`."""
    return f"{exchange.scheme}://{exchange.headers.get('host', 'localhost')}"
