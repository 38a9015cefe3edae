"""One pub/sub connection for all readers of a client, however many streams they follow.

The connection is opened for the first reader and closed after the last. When it is lost, it is
opened again, with growing pauses, while there are readers; then all of them are notified that they
may have missed events. `AsyncMultiplexer` runs on the event loop of its readers. `Multiplexer` runs
the same code on its own loop in a background thread: readers in threads never use the socket, which
TLS would not survive.
"""

import asyncio
import contextlib
import logging
import math
import os
import threading
from typing import Any, Final

import redis
from redis.exceptions import ResponseError

from penstock.errors import PenstockError
from penstock.follow.subscription import Dispatcher, Received, Subscription
from penstock.jitter import jitter
from penstock.settings import ClientSettings
from penstock.store.availability import CONNECTION_LOST
from penstock.store.connection import HEALTH_CHECK_S, connect_listener

logger = logging.getLogger(__name__)

#: Seconds between two attempts to reconnect: the first pause, and the maximum.
MIN_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 1.0
#: Maximum commands that the readers of one client run at the same time. After a lost connection
#: all of them read at once; a thousand connections would take Redis longer than a few in turn.
MAX_COMMANDS: Final = 8


class ClientClosed(PenstockError):
    """The client was closed while a stream was being read."""


class _PubSub:
    """The connection itself. All of it runs on one event loop, on which it is started."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._dispatcher = Dispatcher()
        self._changed = asyncio.Event()
        self._received = False  # since the last check of the connection
        self._connected = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect and stay connected, on the running loop."""
        self._task = asyncio.create_task(self._run(), name="penstock-multiplexer")

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def join(self, subscription: Subscription) -> None:
        """Deliver to a subscription."""
        self._dispatcher.join(subscription)
        self._changed.set()

    def leave(self, subscription: Subscription) -> bool:
        """Stop delivering to a subscription. Returns whether it was the last."""
        last = self._dispatcher.leave(subscription)
        self._changed.set()
        return last

    def fail(self, error: Exception) -> None:
        """Make all readers raise ``error``."""
        for subscription in self._dispatcher.subscriptions:
            subscription.fail(error)

    async def _run(self) -> None:
        client = connect_listener(self._settings)
        pause = MIN_PAUSE_S
        try:
            while True:
                try:
                    await self._session(client.connection_pool)
                except* CONNECTION_LOST as group:
                    logger.info("pub/sub connection lost: %s", group.exceptions[0])
                except* ResponseError as group:
                    self._refused(group)
                pause = MIN_PAUSE_S if self._connected else min(2 * pause, MAX_PAUSE_S)
                # Many processes lose Redis at the same moment; spread their reconnects.
                await asyncio.sleep(pause * (0.5 + 0.5 * jitter()))
        finally:
            await client.aclose()

    def _refused(self, group: ExceptionGroup[ResponseError]) -> None:
        """Fail the readers that Redis does not let subscribe, probably without permission."""
        error = group.exceptions[0]
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        self._dispatcher.fail_pending(error)

    async def _session(self, pool: Any) -> None:
        """Work with one connection until it fails."""
        self._connected = False
        async with asyncio.timeout(2 * self._settings.redis_timeout_s):
            connection = await pool.get_connection()
        try:
            self._connected = True
            self._dispatcher.disconnected()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(connection))
                group.create_task(self._keep_alive(connection))
                group.create_task(self._receive(connection))
        finally:
            await connection.disconnect()
            await pool.release(connection)

    async def _send(self, connection: Any) -> None:
        """Subscribe and unsubscribe as readers come and go."""
        while True:
            self._changed.clear()
            added, dropped = self._dispatcher.changes()
            if added:
                await connection.send_command("SUBSCRIBE", *added)
            if dropped:
                await connection.send_command("UNSUBSCRIBE", *dropped)
            await self._changed.wait()

    async def _keep_alive(self, connection: Any) -> None:
        """Check with PING that an idle connection is alive."""
        while True:
            self._received = False
            await asyncio.sleep(HEALTH_CHECK_S)
            if not self._received:
                await connection.send_command("PING")
                await asyncio.sleep(self._settings.redis_timeout_s)
                if not self._received:
                    raise redis.TimeoutError("no answer to PING")

    async def _receive(self, connection: Any) -> None:
        dispatcher = self._dispatcher
        while True:
            reply = await connection.read_response(
                timeout=math.inf, disconnect_on_error=False, push_request=True
            )
            self._received = True
            if reply[0] == b"message":
                dispatcher.deliver(reply[1], reply[2])
            elif reply[0] == b"subscribe":
                dispatcher.acknowledge(reply[1])


class TaskSubscription(Subscription):
    """The subscription of a reader on the event loop of the connection."""

    def __init__(self, channel: str) -> None:
        super().__init__(channel)
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> Received:
        """Take what has arrived, or wait for it up to ``seconds``."""
        received = self.take()
        if received.events or received.missed:
            return received
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        # A timer and a bare future: asyncio.timeout would cost a reader more than its event.
        timer = loop.call_later(seconds, self._notify)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
        return self.take()

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsyncMultiplexer:
    """Serves readers on one event loop. ``command_slots`` limits their concurrent commands."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._pubsub: _PubSub | None = None
        self._closed = False
        self.command_slots = asyncio.Semaphore(MAX_COMMANDS)

    def join(self, channel: str) -> TaskSubscription:
        """Subscribe to ``channel``. Raises `ClientClosed`."""
        if self._closed:
            raise ClientClosed
        if self._pubsub is None:
            self._pubsub = _PubSub(self._settings)
            self._pubsub.start()
        subscription = TaskSubscription(channel)
        self._pubsub.join(subscription)
        return subscription

    async def leave(self, subscription: TaskSubscription) -> None:
        """End a subscription. After the last one the connection is closed."""
        pubsub = self._pubsub
        if pubsub is not None and pubsub.leave(subscription):
            self._pubsub = None
            await pubsub.stop()

    async def close(self) -> None:
        """Close the connection. Readers raise `ClientClosed`."""
        self._closed = True
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.fail(ClientClosed())
            await pubsub.stop()


class ThreadSubscription(Subscription):
    """The subscription of a reader in a thread."""

    def __init__(self, channel: str) -> None:
        super().__init__(channel)
        self._notified = threading.Event()

    def wait(self, seconds: float) -> Received:
        """Take what has arrived, or wait for it up to ``seconds``."""
        self._notified.wait(seconds)
        self._notified.clear()  # before `take`: what arrives later notifies again
        return self.take()

    def _notify(self) -> None:
        self._notified.set()


class _PubSubThread:
    """A connection on an event loop of its own, in a thread."""

    def __init__(self, settings: ClientSettings) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._started = threading.Event()
        self._stopping = asyncio.Event()
        self._pubsub = _PubSub(settings)
        self._subscriptions: set[ThreadSubscription] = set()
        # A daemon: a reader that is never closed must not keep the interpreter from exiting.
        self._thread = threading.Thread(target=self._run, name="penstock-multiplexer", daemon=True)
        self._thread.start()
        self._started.wait()

    def join(self, subscription: ThreadSubscription) -> None:
        """Deliver to a subscription."""
        self._subscriptions.add(subscription)
        self._loop.call_soon_threadsafe(self._pubsub.join, subscription)

    def leave(self, subscription: ThreadSubscription) -> bool:
        """Returns whether it was the last subscription; then only `stop` may follow."""
        self._subscriptions.discard(subscription)
        if self._subscriptions:
            self._loop.call_soon_threadsafe(self._pubsub.leave, subscription)
        return not self._subscriptions

    def stop(self, error: Exception | None = None) -> None:
        """Disconnect and end the thread. Remaining readers raise ``error``."""
        if error is not None:
            for subscription in self._subscriptions:
                subscription.fail(error)
        self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not threading.current_thread():  # which may garbage-collect a reader
            self._thread.join()

    def _run(self) -> None:
        # The loop is created here, where no signal arrives: Ctrl-C during its creation would leave
        # half a loop, which warns when it is garbage-collected.
        with asyncio.Runner() as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        self._pubsub.start()
        await self._stopping.wait()
        await self._pubsub.stop()


class Multiplexer:
    """Serves readers in threads. ``command_slots`` limits their concurrent commands.

    A forked child starts a connection of its own: it has neither its parent's thread nor a usable
    copy of its connection.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        # Reentrant: a reader may be garbage-collected, and leave, in the middle of any call.
        self._lock = threading.RLock()
        self._pubsub: _PubSubThread | None = None
        self.command_slots = threading.BoundedSemaphore(MAX_COMMANDS)

    def join(self, channel: str) -> ThreadSubscription:
        """Subscribe to ``channel``. Raises `ClientClosed`."""
        if os.getpid() != self._pid:
            self._reset()
        subscription = ThreadSubscription(channel)
        with self._lock:
            if self._closed:
                raise ClientClosed
            if self._pubsub is None:
                self._pubsub = _PubSubThread(self._settings)
            self._pubsub.join(subscription)
        return subscription

    def leave(self, subscription: ThreadSubscription) -> None:
        """End a subscription. After the last one the connection is closed."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            pubsub = self._pubsub
            if pubsub is None or not pubsub.leave(subscription):
                return
            self._pubsub = None
        pubsub.stop()

    def close(self) -> None:
        """Close the connection. Readers raise `ClientClosed`."""
        if os.getpid() != self._pid:
            self._reset()
        with self._lock:
            self._closed = True
            pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.stop(ClientClosed())
