"""Follow a request or a job: first its log, then its channel, without a gap.

`follow` is for threads, `follow_async` for event loops. Both execute what a
`penstock.follow.plan.Follower` decides. Missing events are read from the log, so a lost message or
an unavailable Redis costs time but never content.
"""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import redis.exceptions

from penstock.errors import RecordUnreadable
from penstock.events import Cursor, Event
from penstock.follow.entries import decode_entry
from penstock.follow.interrupt import Interrupt, Interrupted
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
from penstock.store.connection import AsyncConnection, Connection
from penstock.store.redis_protocol import QueuedCommands
from penstock.store.snapshots import Queue, read_snapshot, read_snapshot_async


def follow(
    connection: Connection,
    multiplexer: Multiplexer,
    keys: RecordKeys,
    *,
    after: Cursor | None = None,
    timeout: float | None = None,
    wait_for: float = 0.0,
    text_first: bool = False,
    answered: bool = False,
    unavailable_s: float | None = None,
    interrupt: Interrupt | None = None,
) -> Generator[Event, None, None]:
    """Yield the events after ``after``, up to and including the last one.

    ``timeout`` is the maximum number of seconds between two events; after that `TimeoutError` is
    raised, and the reader can resume from the cursor of its last event. ``wait_for`` is the number
    of seconds to wait for a record that does not exist yet. With ``text_first`` the first event is
    ``penstock.snapshot``, unless nothing has been written yet. ``answered``: Redis has answered
    this program before, so even the first read waits for it. ``unavailable_s``: maximum seconds to
    wait for Redis, if that is not ``timeout``. ``interrupt`` ends the generator from another
    thread, without an error.

    Raises `NotFound` if there is no record, or if it expires during reading, `RecordUnreadable`,
    `ClientClosed`, and `RedisUnavailable` if Redis is unavailable for too long.
    """
    interrupt = interrupt or Interrupt()
    plan = Follower(
        keys.id,
        after=after,
        timeout=timeout,
        wait_for=wait_for,
        text_first=text_first,
        answered=answered,
        unavailable_s=unavailable_s,
    ).effects()
    subscription: ThreadSubscription | None = None
    effect: Effect | None = next(plan)
    try:
        while effect is not None and not interrupt.called:
            answer: Any = None
            if isinstance(effect, list):
                yield from effect
            elif isinstance(effect, Wait):
                # Only when there is something to wait for: work that has ended needs no channel.
                subscription = multiplexer.joined(subscription, keys.events)
                interrupt.attach(subscription)
                answer = subscription.wait(effect.seconds)
            else:
                multiplexer.check_open()
                with multiplexer.command_slots:
                    answer = _read(connection, keys, effect)
                multiplexer.check_open()  # the error may be that the connection was closed
            effect = _next_effect(plan, answer)
    except Interrupted:
        return
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
    answered: bool = False,
    unavailable_s: float | None = None,
    interrupt: Interrupt | None = None,
) -> AsyncGenerator[Event, None]:
    """Like `follow`, on an event loop."""
    interrupt = interrupt or Interrupt()
    plan = Follower(
        keys.id,
        after=after,
        timeout=timeout,
        wait_for=wait_for,
        text_first=text_first,
        answered=answered,
        unavailable_s=unavailable_s,
    ).effects()
    subscription: TaskSubscription | None = None
    effect: Effect | None = next(plan)
    try:
        while effect is not None and not interrupt.called:
            answer: Any = None
            if isinstance(effect, list):
                for event in effect:
                    yield event
            elif isinstance(effect, Wait):
                if subscription is None:
                    subscription = multiplexer.join(keys.events)
                    interrupt.attach(subscription)
                answer = await subscription.wait(effect.seconds)
            else:
                multiplexer.check_open()
                async with multiplexer.command_slots:
                    answer = await _read_async(connection, keys, effect)
                multiplexer.check_open()  # the error may be that the connection was closed
            effect = _next_effect(plan, answer)
    except Interrupted:
        return
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
        return _reading(keys, read_snapshot(connection, keys.meta, _queued(keys, effect)))
    except Exception as error:  # a socket that another thread closes raises errors of any kind
        return _meaning(keys, error)


async def _read_async(
    connection: AsyncConnection, keys: RecordKeys, effect: ReadLog | ReadSnapshot
) -> Reading | Exception:
    try:
        queued = _queued(keys, effect)
        return _reading(keys, await read_snapshot_async(connection, keys.meta, queued))
    except Exception as error:
        return _meaning(keys, error)


def _queued(keys: RecordKeys, effect: ReadLog | ReadSnapshot) -> Queue:
    """The commands of a read, beside those that read the record."""

    def queue(pipe: QueuedCommands) -> None:
        if isinstance(effect, ReadLog):
            pipe.xrange(keys.log, min=str(effect.start), max="+", count=PAGE)
            return
        pipe.xrevrange(keys.log, count=1)
        if isinstance(keys, RequestKeys):
            pipe.get(keys.text)

    return queue


def _reading(keys: RecordKeys, replies: list[Any]) -> Reading:
    (state, n, base, _), entries, *text = replies
    if state is None or n is None:
        return Reading(None, 0, [])
    try:
        return Reading(
            State(state.decode()),
            int(n),
            [decode_entry(place, fields) for place, fields in entries],
            (text[0] or b"").decode(errors="replace") if text else "",
            int(base or 1),
        )
    except ValueError as error:
        raise RecordUnreadable(f"the record of {keys.id} is damaged: {error}") from error


def _meaning(keys: RecordKeys, error: Exception) -> Exception:
    """Return what an error reply says about the record, or the error itself."""
    if isinstance(error, redis.exceptions.ResponseError) and str(error).startswith("WRONGTYPE"):
        return RecordUnreadable(
            f"the record of {keys.id} is damaged: {keys.meta}, or its log or text, is a key of "
            "another type, which another program has written"
        )
    return error
