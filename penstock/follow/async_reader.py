"""Follow records on an event loop: one Redis client and one multiplexer for all its readers."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from penstock.events import Cursor, Event
from penstock.follow.multiplexer import AsyncMultiplexer
from penstock.follow.reader import follow_async
from penstock.keys import RecordKeys
from penstock.settings import ClientSettings
from penstock.store.connection import AsyncConnection, connect_async, redis_errors_translated


class AsyncReader:
    """The connections that all readers of a client share."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._redis: AsyncConnection = connect_async(settings)
        self._multiplexer = AsyncMultiplexer(settings)

    async def follow(
        self,
        keys: RecordKeys,
        *,
        after: Cursor | None = None,
        timeout: float | None = None,
        wait_for: float = 0.0,
        text_first: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Like `penstock.follow.reader.follow_async`; connection errors are `RedisUnavailable`."""
        with redis_errors_translated(self._settings):
            source = follow_async(
                self._redis,
                self._multiplexer,
                keys,
                after=after,
                timeout=timeout,
                wait_for=wait_for,
                text_first=text_first,
            )
            async with aclosing(source) as found:
                async for event in found:
                    yield event

    async def close(self) -> None:
        """Close all connections. Readers raise `ClientClosed`."""
        await self._multiplexer.close()
        await self._redis.aclose()
