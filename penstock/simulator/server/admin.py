"""The control endpoints under /_sim/, which are not part of the API."""

from dataclasses import asdict
from typing import Any

from penstock.simulator.batches import payments
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import now_utc
from penstock.simulator.errors import invalid, not_found
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.fault import Fault
from penstock.simulator.messages.validation import parse_json

PREFIX = "/_sim/"
_MAX_BODY = 1024 * 1024


async def serve(exchange: Exchange, state: BatchState) -> None:
    """Respond to one control request."""
    await exchange.read(_MAX_BODY)
    name = exchange.path.removeprefix(PREFIX)
    try:
        answer = await _handle(exchange, state, name)
    except (TypeError, ValueError) as error:
        raise invalid(str(error)) from error
    await exchange.reply(answer)


async def _handle(exchange: Exchange, state: BatchState, name: str) -> Any:
    match exchange.method, name.split("/"):
        case "GET", ["stats"]:
            return state.stats.as_dict()
        case "GET", ["requests"]:
            limit = int(exchange.query.get("limit", "100"))
            return [each.as_dict() for each in list(state.log)[max(0, len(state.log) - limit) :]]
        case _, ["faults"]:
            return _faults(exchange, state)
        case "GET", ["options"]:
            return asdict(state.options)
        case "POST", ["options"]:
            state.configure(parse_json(exchange.body))
            return asdict(state.options)
        case "POST", ["reset"]:
            state.reset()
            return {}
        case "POST", ["batches", batch_id, action]:
            return await _change_batch(state, batch_id, action)
        case "GET", ["batches"]:
            return _batches(exchange, state)
        case "GET", ["paid"]:
            return payments.count_payments(
                (batch for batch, _ in state.batches.history(now_utc())), state.live_paid
            )
        case _:
            raise not_found(f"{exchange.method} {exchange.path}")


def _faults(exchange: Exchange, state: BatchState) -> Any:
    if exchange.method == "POST":
        state.faults.add(Fault.parse(parse_json(exchange.body)))
    elif exchange.method == "DELETE":
        state.faults.clear()
    return state.faults.as_list()


def _batches(exchange: Exchange, state: BatchState) -> Any:
    wanted = exchange.query.get("batch")
    with_lines = exchange.query.get("ids", "0") != "0"
    return [
        payments.describe_batch(batch, deleted=deleted, with_lines=with_lines)
        for batch, deleted in state.batches.history(now_utc())
        if wanted in (None, batch.id)
    ]


async def _change_batch(state: BatchState, batch_id: str, action: str) -> Any:
    batch = state.batches.get(batch_id, now_utc())
    if batch is None:
        raise not_found(f"Message Batch {batch_id} not found.")
    if action == "hold":
        batch.held = True
    elif action == "release":
        batch.held = False
    elif action == "end":
        await state.background.wait_for(batch_id)
        if batch.ended_at is None:
            batch.end(now_utc())
    elif action == "archive":
        batch.archived_at = now_utc()
    else:
        raise ValueError(f"unknown action {action!r}; use hold, release, end or archive")
    batch.advance(now_utc())
    return batch.as_dict("")
