"""Follow records on event loops: for each, one Redis client and one multiplexer for all readers.

A connection belongs to the loop on which it was opened. A program may use a client on several: one
after the other, with ``asyncio.run`` for each call, or at the same time, in threads.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

from penstock.errors import ClientClosed
from penstock.events import Cursor, Event
from penstock.follow import forks
from penstock.follow.interrupt import Interrupt
from penstock.follow.multiplexer import AsyncMultiplexer
from penstock.follow.reader import follow_async
from penstock.keys import RecordKeys
from penstock.settings import ClientSettings
from penstock.store.connection import connect_async, redis_errors_translated


class AsyncReader:
    """The connections that all readers of a client share."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._closed = False
        self._connections: dict[asyncio.AbstractEventLoop, _Connections] = {}
        forks.register(self)

    def begin_in_child(self) -> None:
        """Forget the loops of the parent process. The lock may be held by one of its threads."""
        forks.keep(self._connections)
        self._lock, self._connections = threading.Lock(), {}

    async def follow(
        self,
        keys: RecordKeys,
        *,
        after: Cursor | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
        text_first: bool = False,
        answered: bool = False,
        interrupt: Interrupt | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Like `penstock.follow.reader.follow_async`; connection errors are `RedisUnavailable`."""
        connections = self._of_this_loop()
        await connections.open()
        with redis_errors_translated(self._settings):
            source = follow_async(
                connections.redis,
                connections.multiplexer,
                keys,
                after=after,
                timeout=timeout,
                wait_for=wait_for,
                text_first=text_first,
                answered=answered,
                interrupt=interrupt,
            )
            async with aclosing(source) as found:
                async for event in found:
                    yield event

    async def close(self) -> None:
        """Close all connections, on every loop. Readers raise `ClientClosed`."""
        with self._lock:
            self._closed = True
            everywhere = list(self._connections.items())
        for loop, connections in everywhere:
            if loop is asyncio.get_running_loop():
                await connections.close()
            elif loop.is_running():  # in another thread
                closing = asyncio.run_coroutine_threadsafe(connections.close(), loop)
                # A loop that ends, or is blocked by its own program, never closes them.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.redis_timeout_s):
                        await asyncio.wrap_future(closing)

    def _of_this_loop(self) -> "_Connections":
        loop = asyncio.get_running_loop()
        with self._lock:
            if (found := self._connections.get(loop)) is None:
                if self._closed:
                    raise ClientClosed
                for ended in [each for each in self._connections if each.is_closed()]:
                    del self._connections[ended]
                found = self._connections[loop] = _Connections(self._settings)
        return found


class _Connections:
    """The connections of one event loop."""

    def __init__(self, settings: ClientSettings) -> None:
        self.redis = connect_async(settings)
        self.multiplexer = AsyncMultiplexer(settings)
        self._until_loop_ends: AsyncGenerator[None, None] | None = None

    async def open(self) -> None:
        """Close the connections when the loop ends, for a program that closes no client.

        ``asyncio.run`` closes the generators that are left on its loop; no other code of ours runs
        at that moment.
        """
        if self._until_loop_ends is None:
            self._until_loop_ends = self._close_at_the_end()
            await anext(self._until_loop_ends)

    async def close(self) -> None:
        """Close all of them; readers raise `ClientClosed`."""
        await self.multiplexer.close()
        await self.redis.aclose()

    async def _close_at_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close()
