"""The parts of a worker process that its stream tasks share, started once."""

import asyncio
import gc
import logging
import threading
from concurrent.futures import CancelledError, Future
from typing import Any

from config.settings import WorkerSettings
from penstock.store.availability import ANY_FAILURE
from penstock.store.connection import AsyncConnection, connect_async
from tasks.api.client import async_client
from tasks.streams.publish.publisher import Publisher
from tasks.streams.publish.script_pipeline import ScriptPipeline
from tasks.streams.relay import Relay
from tasks.streams.result import RunResult
from workers.identity import process_name
from workers.loop import BackgroundTasks, LoopThread
from workers.pool import SHUTDOWN_LIMIT_S

logger = logging.getLogger(__name__)


class StreamRuntime:
    """Owns the relay, the publisher and the subscription to the control channel."""

    def __init__(self, settings: WorkerSettings, loop: LoopThread) -> None:
        self._settings = settings
        self._loop = loop
        self._lock = threading.Lock()
        self._relay: Relay | None = None
        self._background = BackgroundTasks()
        self._running: set[Future[Any]] = set()

    def start(self) -> Relay:
        """Return the relay of this process; the first call starts everything it needs."""
        with self._lock:
            if self._relay is None:
                self._relay = self._loop.submit(self._start()).result()
            return self._relay

    def run(self, id: str) -> RunResult:
        """Run a request; blocks the calling thread until it ends or is no longer run here."""
        future = self._loop.submit(self.start().run(id))
        self._running.add(future)
        try:
            return future.result()
        except CancelledError:
            # Its lease expires, and another worker resumes it.
            return RunResult("skipped", reason="its worker shut down and could not hand it over")
        finally:
            self._running.discard(future)

    def cancel(self, id: str, who: str) -> None:
        """Cancel a request; may be called from any thread. ``who`` is recorded."""
        self._loop.submit(self.start().cancel(id, who))

    def hand_over(self) -> None:
        """Return all running streams to the queue, because the worker is shutting down.

        May be called again, and from a signal handler.
        """
        if self._relay is not None:
            self._loop.loop.call_soon_threadsafe(self._relay.hand_over)

    def abandon(self) -> None:
        """Free the threads that wait for a stream, even if the loop no longer runs."""
        for future in list(self._running):
            logger.error("a stream was not handed over within %.0f s", SHUTDOWN_LIMIT_S)
            future.cancel()

    async def _start(self) -> Relay:
        settings = self._settings
        connection = connect_async(settings)
        pipeline = ScriptPipeline(connection, timeout_s=settings.redis_timeout_s)
        publisher = Publisher(pipeline, settings.keys, lease_ms=settings.lease_ms)
        publisher.start()
        relay = Relay(settings, connection, async_client(settings), publisher, process_name())
        self._background.keep(
            "reading the control channel", lambda: self._listen(connection, publisher)
        )
        # Everything imported so far lives as long as the process. If the garbage collector kept
        # scanning it, each full collection would stop all streams of the process for 0.1 s or more.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 5, 20)  # collect rarely, and only what is new
        return relay

    async def _listen(self, connection: AsyncConnection, publisher: Publisher) -> None:
        """Check a request's cancel flag as soon as the control channel names the request."""
        while True:
            try:
                async with connection.pubsub() as channel:
                    await channel.subscribe(self._settings.keys.control)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            publisher.check_cancel(message["data"].decode(errors="replace"))
            except ANY_FAILURE as error:
                # The channel only speeds this up: the next write or renewal reads the flag too.
                logger.debug("the control channel is unavailable: %s", error)
            await asyncio.sleep(1)
