"""The outcome of each request of a batch, found after the batch is created."""

import asyncio

import orjson

from penstock.simulator.batches.lines import RequestLine, parse_line, render_result
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import Batch, Outcome, PackedLines
from penstock.simulator.faults.malformed_lines import malformed

#: Lines evaluated before the event loop serves other connections. It serves one part of an
#: incoming body at a time, so a larger number would slow down large creates.
_LINES_PER_TURN = 20


async def evaluate(batch: Batch, state: BatchState) -> None:
    """Evaluate the lines of a batch, one batch at a time. A batch cannot end before."""
    async with state.evaluation_lock:
        await _evaluate(batch, state)


async def _evaluate(batch: Batch, state: BatchState) -> None:
    for place, raw in enumerate(batch.lines):
        line = parse_line(raw, batch.version, batch.betas)
        outcome = line.outcome
        if line.shape.first and outcome is not Outcome.SUCCEEDED:
            state.times_seen[line.hash] += 1
            if state.times_seen[line.hash] > line.shape.first:
                outcome = Outcome.SUCCEEDED
        if batch.rendered is not None:
            batch.rendered.append(_render(batch, place, line, outcome))
        batch.hashes.append(line.hash)
        batch.outcomes.append(outcome)
        if place % _LINES_PER_TURN == _LINES_PER_TURN - 1:
            await asyncio.sleep(0)
    if batch.rendered is not None:
        batch.lines = PackedLines()


def result_line(batch: Batch, index: int, outcome: Outcome) -> bytes:
    """A line of the results, by the place of its request in the batch."""
    if outcome is Outcome.CANCELED:
        custom_id = batch.custom_ids[index].decode()
        return orjson.dumps({"custom_id": custom_id, "result": {"type": "canceled"}}) + b"\n"
    if batch.rendered is not None:
        return batch.rendered[index]
    line = parse_line(batch.lines[index], batch.version, batch.betas)
    return _render(batch, index, line, outcome)


def _render(batch: Batch, index: int, line: RequestLine, outcome: Outcome) -> bytes:
    rendered = render_result(
        line,
        outcome,
        message_id=f"msg_{batch.id[9:]}{index:06d}",
        answer_bytes=batch.answer_bytes,
        mark=batch.mark,
    )
    return malformed(rendered, line.shape.line) if line.shape.line else rendered
