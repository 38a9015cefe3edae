"""Makes many calls of one script in a single round trip.

It uses redis-py's lowest level. Every delta is such a call, and redis-py's own pipeline would be
half the cost of a delta: it packs each argument in Python and sets a timer for each reply. Here
hiredis packs the arguments, and one timer bounds the whole round trip.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from hiredis import pack_command
from redis.exceptions import NoScriptError, ResponseError

from penstock.store.connection import AsyncConnection
from penstock.store.scripts import ScriptCall

#: Bytes for which a round trip gets a further second: a call of many MB must not fail each time.
MIN_BYTES_PER_S: Final = 2**20


class ScriptPipeline:
    """Runs scripts over the connections of an asyncio client."""

    def __init__(self, connection: AsyncConnection, *, timeout_s: float) -> None:
        """``timeout_s``: maximum seconds of a round trip of less than `MIN_BYTES_PER_S` bytes."""
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
        size = sum(map(len, commands))
        async with asyncio.timeout(self._timeout_s + size // MIN_BYTES_PER_S):
            connection = await pool.get_connection()
            try:
                await _send(connection, commands, size)
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


async def _send(connection: Any, commands: list[bytes], size: int) -> None:
    if size < MIN_BYTES_PER_S:
        await connection.send_packed_command(commands)
        return
    # The driver's own timeout applies to each piece, and its health check must not be between two.
    whole = b"".join(commands)
    for start in range(0, size, MIN_BYTES_PER_S):
        piece = whole[start : start + MIN_BYTES_PER_S]
        await connection.send_packed_command([piece], check_health=start == 0)


async def _reply(connection: Any) -> Any:
    try:
        # Infinity switches off the driver's timer per reply; the round trip has its own.
        return await connection.read_response(timeout=float("inf"))
    except ResponseError as error:
        return error
