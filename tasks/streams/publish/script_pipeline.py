"""Makes many calls of one script in a single round trip.

It uses redis-py's lowest level. Every delta is such a call, and redis-py's own pipeline would be
half the cost of a delta: it packs each argument in Python and sets a timer for each reply. Here
hiredis packs the arguments, and one timer bounds the whole round trip.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.exceptions import NoScriptError, ResponseError

from penstock.store.connection import AsyncConnection
from penstock.store.scripts import ScriptCall


class ScriptPipeline:
    """Runs scripts over the connections of an asyncio client."""

    def __init__(self, connection: AsyncConnection, *, timeout_s: float) -> None:
        self._redis = connection
        self._timeout_s = timeout_s

    async def run(self, calls: Sequence[ScriptCall[Any]]) -> list[Any]:
        """Return the replies to calls of one script.

        The reply to a call that Redis refuses is redis-py's `ResponseError`. The reply to a call
        that cannot be packed is the error of packing it, so that it harms no other call.

        Raises redis-py's `ConnectionError` or `TimeoutError`; it is then unknown which calls ran.
        """
        replies = await self._round_trip(calls)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # Redis was restarted or its scripts were flushed; none of the calls ran.
            await self._redis.script_load(calls[0].script.text)
            replies = await self._round_trip(calls)
        return replies

    async def _round_trip(self, calls: Sequence[ScriptCall[Any]]) -> list[Any]:
        packed = [_packed(call) for call in calls]
        commands = [command for command in packed if isinstance(command, bytes)]
        if not commands:
            return packed
        pool = self._redis.connection_pool
        async with asyncio.timeout(self._timeout_s):
            connection = await pool.get_connection()
            try:
                await connection.send_packed_command(commands)
                return [
                    await _reply(connection) if isinstance(command, bytes) else command
                    for command in packed
                ]
            except BaseException:
                # A connection with unread replies must not be used again.
                await connection.disconnect(nowait=True)
                raise
            finally:
                await pool.release(connection)


def _packed(call: ScriptCall[Any]) -> bytes | Exception:
    try:
        arguments = ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)
        packed: bytes = pack_command(arguments)
        return packed
    except Exception as error:
        return error


async def _reply(connection: Any) -> Any:
    try:
        # Infinity switches off the driver's timer per reply; the round trip has its own.
        return await connection.read_response(timeout=float("inf"))
    except ResponseError as error:
        return error
