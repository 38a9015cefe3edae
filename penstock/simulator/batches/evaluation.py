"""What the API does between a batch's creation and its end: every line is looked at."""

from __future__ import annotations

import asyncio

import orjson

from penstock.simulator.batches.lines import RequestLine, parse_line, render_result
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import Batch, Outcome, PackedLines

_LINES_PER_TURN = 20
"""Lines evaluated before other connections get their turn: with each part of a body
that arrives meanwhile, so that more would make large creates slow."""


async def evaluate(batch: Batch, state: BatchState) -> None:
    """Judge the lines of a batch, which cannot end before; one batch after the other."""
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
    """Return a line of the results, by its place among the requests."""
    if outcome is Outcome.CANCELED:
        custom_id = batch.custom_ids[index].decode()
        return orjson.dumps({"custom_id": custom_id, "result": {"type": "canceled"}}) + b"\n"
    if batch.rendered is not None:
        return batch.rendered[index]
    line = parse_line(batch.lines[index], batch.version, batch.betas)
    return _render(batch, index, line, outcome)


def _render(batch: Batch, index: int, line: RequestLine, outcome: Outcome) -> bytes:
    """Write a line of the results."""
    return render_result(
        line,
        outcome,
        message_id=f"msg_{batch.id[9:]}{index:06d}",
        answer_bytes=batch.answer_bytes,
    )
