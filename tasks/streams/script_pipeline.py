"""Many calls of one script in one round trip, at the lowest level redis-py and hiredis offer.

A delta is one such call, and redis-py's own pipeline would be half of what a delta costs: it packs
every argument in Python and sets a timer for every reply. Here hiredis packs, and one timer bounds
the whole round trip.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiredis import pack_command
from redis.exceptions import NoScriptError, ResponseError

from penstock.store.connection import Connection
from penstock.store.scripts import Script


class ScriptCall(NamedTuple):
    """One call of a script."""

    keys: list[str]
    args: list[Any]  #: text, bytes or int


class ScriptPipeline:
    """Runs scripts over the connections of an asyncio client."""

    def __init__(self, connection: Connection, *, timeout_s: float) -> None:
        self._redis = connection
        self._timeout_s = timeout_s

    async def run(self, called: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """The answers in the calls' order; where Redis refuses a call, its error.

        Raises redis-py's `ConnectionError`, or `TimeoutError`; which calls ran is unknown then.
        """
        replies = await self._round_trip(called, calls)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # Redis was restarted or its scripts were flushed. None of them ran.
            await self._redis.script_load(called.text)
            replies = await self._round_trip(called, calls)
        return replies

    async def _round_trip(self, called: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        packed = [
            pack_command(("EVALSHA", called.sha, len(call.keys), *call.keys, *call.args))
            for call in calls
        ]
        pool = self._redis.connection_pool
        async with asyncio.timeout(self._timeout_s):
            connection = await pool.get_connection()
            try:
                await connection.send_packed_command(packed)
                return [await _reply(connection) for _ in packed]
            except BaseException:
                # A connection with answers left in it must not be used again.
                await connection.disconnect(nowait=True)
                raise
            finally:
                await pool.release(connection)


async def _reply(connection: Any) -> Any:
    try:
        # Infinity: the driver's own timer is what we are here to avoid; ours is around it all.
        return await connection.read_response(timeout=float("inf"))
    except ResponseError as error:
        return error
