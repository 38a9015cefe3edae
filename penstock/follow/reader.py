"""Follow a request or a job: what is in its log first, then what is published, without a seam.

`follow` is for threads, `follow_async` for event loops; both carry out what a
`penstock.follow.plan.Follower` decides. A hole is filled from the log, so a lost message costs time
and never content; so does a Redis that is away for a while.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

from penstock import events
from penstock.events import Cursor, Event
from penstock.follow.multiplexer import (
    AsyncMultiplexer,
    Multiplexer,
    TaskSubscription,
    ThreadSubscription,
)
from penstock.follow.plan import PAGE, Follower, Look, Read, Reading, Step, Steps, Wait
from penstock.keys import RecordKeys, RequestKeys
from penstock.states import State
from penstock.store.availability import UNREACHABLE
from penstock.store.connection import AsyncConnection, Connection
from penstock.store.redis_protocol import QueuedCommands


def follow(
    connection: Connection,
    multiplexer: Multiplexer,
    keys: RecordKeys,
    *,
    after: Cursor | None = None,
    timeout: float | None = None,
    wait_for: float = 0.0,
    text_first: bool = False,
) -> Generator[Event, None, None]:
    """Yield the events behind ``after`` up to and including the last one.

    ``timeout`` bounds the seconds between two events; then `TimeoutError` is raised, and the
    reader can go on later from the cursor of its last event. ``wait_for``: seconds to wait for a
    record that does not exist yet. ``text_first``: begin with ``penstock.snapshot``, unless
    nothing has been written yet. Raises `NotFound` when there is no record, or when it expires
    while being read, and `RedisUnavailable` when Redis is away for too long.
    """
    plan = Follower(
        keys.id, after=after, timeout=timeout, wait_for=wait_for, text_first=text_first
    ).steps()
    subscription: ThreadSubscription | None = None
    step: Step | None = next(plan)
    try:
        while step is not None:
            answer: Any = None
            if isinstance(step, list):
                yield from step
            elif isinstance(step, Wait):
                # Not before there is something to wait for: whatever has ended needs no channel.
                subscription = subscription or multiplexer.join(keys.events)
                answer = subscription.wait(step.seconds)
            else:
                with multiplexer.turn:
                    answer = _asked(connection, keys, step)
            step = _next_step(plan, answer)
    finally:
        if subscription is not None:
            multiplexer.leave(subscription)


async def follow_async(
    connection: AsyncConnection,
    multiplexer: AsyncMultiplexer,
    keys: RecordKeys,
    *,
    after: Cursor | None = None,
    timeout: float | None = None,
    wait_for: float = 0.0,
    text_first: bool = False,
) -> AsyncGenerator[Event, None]:
    """`follow` on an event loop; ``connection`` is redis-py's asyncio client."""
    plan = Follower(
        keys.id, after=after, timeout=timeout, wait_for=wait_for, text_first=text_first
    ).steps()
    subscription: TaskSubscription | None = None
    step: Step | None = next(plan)
    try:
        while step is not None:
            answer: Any = None
            if isinstance(step, list):
                for event in step:
                    yield event
            elif isinstance(step, Wait):
                subscription = subscription or multiplexer.join(keys.events)
                answer = await subscription.wait(step.seconds)
            else:
                async with multiplexer.turn:
                    answer = await _asked_async(connection, keys, step)
            step = _next_step(plan, answer)
    finally:
        if subscription is not None:
            await multiplexer.leave(subscription)


def _next_step(plan: Steps, answer: Any) -> Step | None:
    """Give the plan the answer to its last step, or the error that came instead."""
    try:
        return plan.throw(answer) if isinstance(answer, Exception) else plan.send(answer)
    except StopIteration:
        return None


def _asked(connection: Connection, keys: RecordKeys, step: Read | Look) -> Reading | Exception:
    try:
        with connection.pipeline(transaction=True) as pipe:
            _queue(pipe, keys, step)
            return _reading(pipe.execute())
    except UNREACHABLE as error:
        return error


async def _asked_async(
    connection: AsyncConnection, keys: RecordKeys, step: Read | Look
) -> Reading | Exception:
    task = asyncio.current_task()
    canceled = task.cancelling() if task else 0
    try:
        async with connection.pipeline(transaction=True) as pipe:
            _queue(pipe, keys, step)
            reading = _reading(await pipe.execute())
    except UNREACHABLE as error:
        return error
    if task and task.cancelling() > canceled:
        # The driver sends inside `asyncio.wait_for`, which in Python 3.11 can lose this.
        raise asyncio.CancelledError
    return reading


def _queue(pipe: QueuedCommands, keys: RecordKeys, step: Read | Look) -> None:
    """The commands of a step: one moment of record and log."""
    pipe.hmget(keys.meta, "state", "n", "base")
    if isinstance(step, Read):
        pipe.xrange(keys.log, min=str(step.start), max="+", count=PAGE)
        return
    pipe.xrevrange(keys.log, count=1)
    if isinstance(keys, RequestKeys):
        pipe.get(keys.text)


def _reading(replies: list[Any]) -> Reading:
    (state, n, base), entries, *text = replies
    if state is None or n is None:
        return Reading(None, 0, [])
    return Reading(
        State(state.decode()),
        int(n),
        [events.decode(fields[b"d"]) for _, fields in entries],
        (text[0] or b"").decode() if text else "",
        int(base or 1),
    )
