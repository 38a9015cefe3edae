"""What the API does between a batch's creation and its end: every line is looked at."""

from __future__ import annotations

import asyncio

import orjson

from penstock.simulator.batches import lines as batch_lines
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import Batch, Lines, Outcome

_TURN = 20
"""Lines judged before other connections get their turn: with each part of a body
that arrives meanwhile, so that more would make large creates slow."""


async def judge(batch: Batch, state: BatchState) -> None:
    """Judge the lines of a batch, which cannot end before; one batch after the other."""
    async with state.judging:
        await _judge(batch, state)


async def _judge(batch: Batch, state: BatchState) -> None:
    for place, raw in enumerate(batch.lines):
        line = batch_lines.read(raw, batch.version, batch.betas)
        outcome = line.outcome
        if line.shape.first and outcome is not Outcome.SUCCEEDED:
            state.sightings[line.key] += 1
            if state.sightings[line.key] > line.shape.first:
                outcome = Outcome.SUCCEEDED
        if batch.rendered is not None:
            batch.rendered.append(render(batch, place, line, outcome))
        batch.keys.append(line.key)
        batch.outcomes.append(outcome)
        if place % _TURN == _TURN - 1:
            await asyncio.sleep(0)
    if batch.rendered is not None:
        batch.lines = Lines()


def result(batch: Batch, index: int, outcome: Outcome) -> bytes:
    """Return a line of the results, by its place among the requests."""
    if outcome is Outcome.CANCELED:
        custom_id = batch.custom_ids[index].decode()
        return orjson.dumps({"custom_id": custom_id, "result": {"type": "canceled"}}) + b"\n"
    if batch.rendered is not None:
        return batch.rendered[index]
    line = batch_lines.read(batch.lines[index], batch.version, batch.betas)
    return render(batch, index, line, outcome)


def render(batch: Batch, index: int, line: batch_lines.Line, outcome: Outcome) -> bytes:
    """Write a line of the results."""
    return batch_lines.render(
        line,
        outcome,
        message_id=f"msg_{batch.id[9:]}{index:06d}",
        answer_bytes=batch.answer_bytes,
    )
