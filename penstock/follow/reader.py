"""Follow a request or a job: first its log, then its channel, without a gap.

`follow` is for threads, `follow_async` for event loops. Both execute what a
`penstock.follow.plan.Follower` decides. Missing events are read from the log, so a lost message or
an unavailable Redis costs time but never content.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

from penstock.events import Cursor, Event
from penstock.follow.entries import decode_entry
from penstock.follow.multiplexer import (
    AsyncMultiplexer,
    Multiplexer,
    TaskSubscription,
    ThreadSubscription,
)
from penstock.follow.plan import (
    PAGE,
    Effect,
    Effects,
    Follower,
    Reading,
    ReadLog,
    ReadSnapshot,
    Wait,
)
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
    """Yield the events after ``after``, up to and including the last one.

    ``timeout`` is the maximum number of seconds between two events; after that `TimeoutError` is
    raised, and the reader can resume from the cursor of its last event. ``wait_for`` is the number
    of seconds to wait for a record that does not exist yet. With ``text_first`` the first event is
    ``penstock.snapshot``, unless nothing has been written yet. Raises `NotFound` if there is no
    record, or if it expires during reading, and `RedisUnavailable` if Redis is unavailable for too
    long.
    """
    plan = Follower(
        keys.id, after=after, timeout=timeout, wait_for=wait_for, text_first=text_first
    ).effects()
    subscription: ThreadSubscription | None = None
    effect: Effect | None = next(plan)
    try:
        while effect is not None:
            answer: Any = None
            if isinstance(effect, list):
                yield from effect
            elif isinstance(effect, Wait):
                # Only when there is something to wait for: work that has ended needs no channel.
                subscription = subscription or multiplexer.join(keys.events)
                answer = subscription.wait(effect.seconds)
            else:
                with multiplexer.command_slots:
                    answer = _read(connection, keys, effect)
            effect = _next_effect(plan, answer)
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
    """Like `follow`, on an event loop."""
    plan = Follower(
        keys.id, after=after, timeout=timeout, wait_for=wait_for, text_first=text_first
    ).effects()
    subscription: TaskSubscription | None = None
    effect: Effect | None = next(plan)
    try:
        while effect is not None:
            answer: Any = None
            if isinstance(effect, list):
                for event in effect:
                    yield event
            elif isinstance(effect, Wait):
                subscription = subscription or multiplexer.join(keys.events)
                answer = await subscription.wait(effect.seconds)
            else:
                async with multiplexer.command_slots:
                    answer = await _read_async(connection, keys, effect)
            effect = _next_effect(plan, answer)
    finally:
        if subscription is not None:
            await multiplexer.leave(subscription)


def _next_effect(plan: Effects, answer: Any) -> Effect | None:
    """Send the plan the result of its last effect, or throw the error that occurred."""
    try:
        return plan.throw(answer) if isinstance(answer, Exception) else plan.send(answer)
    except StopIteration:
        return None


def _read(
    connection: Connection, keys: RecordKeys, effect: ReadLog | ReadSnapshot
) -> Reading | Exception:
    try:
        with connection.pipeline(transaction=True) as pipe:
            _queue(pipe, keys, effect)
            return _reading(pipe.execute())
    except UNREACHABLE as error:
        return error


async def _read_async(
    connection: AsyncConnection, keys: RecordKeys, effect: ReadLog | ReadSnapshot
) -> Reading | Exception:
    task = asyncio.current_task()
    canceled = task.cancelling() if task else 0
    try:
        async with connection.pipeline(transaction=True) as pipe:
            _queue(pipe, keys, effect)
            reading = _reading(await pipe.execute())
    except UNREACHABLE as error:
        return error
    if task and task.cancelling() > canceled:
        # The driver sends inside `asyncio.wait_for`, which can lose a cancellation in Python 3.11.
        raise asyncio.CancelledError
    return reading


def _queue(pipe: QueuedCommands, keys: RecordKeys, effect: ReadLog | ReadSnapshot) -> None:
    """Add the commands of a read to a transaction, so that all replies are of one moment."""
    pipe.hmget(keys.meta, "state", "n", "base")
    if isinstance(effect, ReadLog):
        pipe.xrange(keys.log, min=str(effect.start), max="+", count=PAGE)
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
        [decode_entry(place, fields) for place, fields in entries],
        (text[0] or b"").decode(errors="replace") if text else "",
        int(base or 1),
    )
