"""What a process needs to carry streams, started once and shared by all its tasks."""

import asyncio
import gc
import logging
import threading
from collections.abc import Coroutine
from typing import Any

from config.settings import WorkerSettings
from penstock.store.availability import ANY_FAILURE
from penstock.store.connection import Connection, connect_async
from tasks.api.client import async_client
from tasks.streams.publisher import Publisher
from tasks.streams.relay import Relay
from tasks.streams.script_pipeline import Pipe
from workers.identity import process_name
from workers.loop import LoopThread

logger = logging.getLogger(__name__)


class Engine:
    """The relay, the publisher and the ear on the control channel."""

    def __init__(self, settings: WorkerSettings, loop: LoopThread) -> None:
        self._settings = settings
        self._loop = loop
        self._lock = threading.Lock()
        self._relay: Relay | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Relay:
        """The process's relay; starts it, with all it needs, the first time."""
        with self._lock:
            if self._relay is None:
                self._relay = self._loop.submit(self._start()).result()
            return self._relay

    def cancel(self, id: str, who: str) -> None:
        """Cancel a request from any thread."""
        self._loop.submit(self.start().cancel(id, who))

    def hand_over(self) -> None:
        """The worker shuts down: give all running streams back to the queue."""
        self._loop.loop.call_soon_threadsafe(self.start().hand_over)

    async def _start(self) -> Relay:
        settings = self._settings
        connection = connect_async(settings)
        pipe = Pipe(connection, timeout_s=settings.redis_timeout_s)
        publisher = Publisher(pipe, settings.keys, lease_ms=settings.lease_ms)
        publisher.start()
        relay = Relay(settings, connection, async_client(settings), publisher, process_name())
        self._keep(self._listen(connection, publisher))
        # What was imported until now stays for ever. To look through all of it again and again,
        # as the garbage collector would, stops every stream of the process for 0.1 s and more.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 5, 20)  # seldom, and never over much
        return relay

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.ensure_future(work))

    async def _listen(self, connection: Connection, publisher: Publisher) -> None:
        """Look at a request at once when the control channel names it."""
        while True:
            try:
                async with connection.pubsub() as channel:
                    await channel.subscribe(self._settings.keys.control)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            publisher.look(message["data"].decode(errors="replace"))
            except ANY_FAILURE as error:
                # Only a wake-up: the next write or renewal sees the flag as well.
                logger.debug("the control channel is away: %s", error)
            await asyncio.sleep(1)
