"""GET /v1/messages/batches/{id}/results."""

import asyncio
from collections.abc import Iterator

from penstock.simulator.batches.evaluation import result_line
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import Batch
from penstock.simulator.errors import not_found
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.fault import Fault
from penstock.simulator.faults.results import chop, corrupt, gather

_WRITE_BYTES = 256 * 1024


async def send_results(
    exchange: Exchange, state: BatchState, batch: Batch, fault: Fault | None
) -> None:
    """Send the results, rendered while they are sent unless ``prerender`` is set."""
    if batch.ended_at is None or batch.archived_at or (fault and fault.results_lag):
        raise not_found(f"Message Batch {batch.id} has no available results.")
    await exchange.start(200, {"content-type": "application/x-jsonl"})
    if not await exchange.run_while_connected(_send(exchange, state, batch, fault or Fault())):
        state.stats.client_disconnects += 1


async def _send(exchange: Exchange, state: BatchState, batch: Batch, fault: Fault) -> None:
    left = fault.results_cut
    for data in _chunks(batch, fault):
        if left is not None and left <= len(data):
            await exchange.write(data[:left])
            await exchange.disconnect(reset=bool(fault.reset))
            return
        left = None if left is None else left - len(data)
        await exchange.write(data)
        # The transport joins what is written in one iteration of the event loop.
        await asyncio.sleep(0)
    state.stats.results_served += 1
    await exchange.end()


def _chunks(batch: Batch, fault: Fault) -> Iterator[bytes]:
    lines = (result_line(batch, index, outcome) for index, outcome in batch.results())
    chunks = gather(corrupt(lines, batch.total, fault), _WRITE_BYTES)
    return chop(chunks, fault.chunk) if fault.chunk else chunks
