"""One pub/sub connection for all readers of a client, however many streams they follow.

The connection is opened for the first reader and closed behind the last one. When it is cut, it
is opened again, with growing pauses, for as long as there are readers; then all of them are told
that they may have missed something. `AsyncMultiplexer` runs on its readers' event loop.
`Multiplexer` runs the same thing on a loop of its own in a background thread: readers in threads
never touch the socket, which TLS would not survive.
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

#: Pauses between tries to connect again: the first one, and the longest one.
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
#: Commands that readers of one client have under way at the same time. After a cut all of them
#: ask at once; a thousand connections would take Redis longer than a few in turn.
COMMANDS: Final = 8


class ClientClosed(PenstockError):
    """The client was closed while a stream was being read."""


class _Connection:
    """The connection itself. Everything runs on one event loop, the loop it is started on."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._dispatcher = Dispatcher()
        self._wake = asyncio.Event()
        self._heard = False  # something has come since the last look
        self._connected = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and stay connected, on the running loop."""
        self._task = asyncio.create_task(self._run(), name="penstock-hub")

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def join(self, box: Subscription) -> None:
        """Deliver to a mailbox."""
        self._dispatcher.join(box)
        self._wake.set()

    def leave(self, box: Subscription) -> bool:
        """Deliver no more to a mailbox; returns whether it was the last one."""
        last = self._dispatcher.leave(box)
        self._wake.set()
        return last

    def fail(self, error: Exception) -> None:
        """Have all readers raise ``error``."""
        for box in self._dispatcher.boxes:
            box.fail(error)

    async def _run(self) -> None:
        client = connect_listener(self._settings)
        pause = FIRST_PAUSE_S
        try:
            while True:
                try:
                    await self._session(client.connection_pool)
                except* CONNECTION_LOST as group:
                    logger.info("pub/sub connection lost: %s", group.exceptions[0])
                except* ResponseError as group:
                    self._refused(group)
                pause = FIRST_PAUSE_S if self._connected else min(2 * pause, LONGEST_PAUSE_S)
                # Many processes lose Redis in the same moment; they should not all come back so.
                await asyncio.sleep(pause * (0.5 + 0.5 * jitter()))
        finally:
            await client.aclose()

    def _refused(self, group: ExceptionGroup[ResponseError]) -> None:
        """Redis is there and says no, for want of a permission most likely."""
        error = group.exceptions[0]
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        self._dispatcher.refuse(error)

    async def _session(self, pool: Any) -> None:
        """Work with one connection until it fails."""
        self._connected = False
        async with asyncio.timeout(2 * self._settings.redis_timeout_s):
            connection = await pool.get_connection()
        try:
            self._connected = True
            self._dispatcher.cut()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(connection))
                group.create_task(self._watch(connection))
                group.create_task(self._receive(connection))
        finally:
            await connection.disconnect()
            await pool.release(connection)

    async def _send(self, connection: Any) -> None:
        """Subscribe and unsubscribe as readers come and go."""
        while True:
            self._wake.clear()
            added, dropped = self._dispatcher.changes()
            if added:
                await connection.send_command("SUBSCRIBE", *added)
            if dropped:
                await connection.send_command("UNSUBSCRIBE", *dropped)
            await self._wake.wait()

    async def _watch(self, connection: Any) -> None:
        """See to it that a connection on which nothing comes is alive."""
        while True:
            self._heard = False
            await asyncio.sleep(HEALTH_CHECK_S)
            if not self._heard:
                await connection.send_command("PING")
                await asyncio.sleep(self._settings.redis_timeout_s)
                if not self._heard:
                    raise redis.TimeoutError("no answer to PING")

    async def _receive(self, connection: Any) -> None:
        dispatcher = self._dispatcher
        while True:
            reply = await connection.read_response(
                timeout=math.inf, disconnect_on_error=False, push_request=True
            )
            self._heard = True
            if reply[0] == b"message":
                dispatcher.deliver(reply[1], reply[2])
            elif reply[0] == b"subscribe":
                dispatcher.stands(reply[1])


class TaskSubscription(Subscription):
    """A mailbox of a reader on the hub's own event loop."""

    def __init__(self, channel: str) -> None:
        super().__init__(channel)
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> Received:
        """Empty the box, when there is something in it or after so many seconds."""
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
    """The hub of readers on one event loop. ``turn`` bounds the commands under way."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._connection: _Connection | None = None
        self._closed = False
        self.turn = asyncio.Semaphore(COMMANDS)

    def join(self, channel: str) -> TaskSubscription:
        """A mailbox for ``channel``: marked as soon as the subscription stands."""
        if self._closed:
            raise ClientClosed
        if self._connection is None:
            self._connection = _Connection(self._settings)
            self._connection.start()
        box = TaskSubscription(channel)
        self._connection.join(box)
        return box

    async def leave(self, box: TaskSubscription) -> None:
        """Give the mailbox back; behind the last one the connection is closed."""
        connection = self._connection
        if connection is not None and connection.leave(box):
            self._connection = None
            await connection.stop()

    async def close(self) -> None:
        """End all reading: readers raise `ClientClosed`."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.fail(ClientClosed())
            await connection.stop()


class ThreadSubscription(Subscription):
    """A mailbox of a reader in a thread."""

    def __init__(self, channel: str) -> None:
        super().__init__(channel)
        self._notified = threading.Event()

    def wait(self, seconds: float) -> Received:
        """Empty the box, when there is something in it or after so many seconds."""
        self._notified.wait(seconds)
        self._notified.clear()  # before the box is emptied: what comes later rings again
        return self.take()

    def _notify(self) -> None:
        self._notified.set()


class _ConnectionThread:
    """A wire on an event loop of its own, in a thread."""

    def __init__(self, settings: ClientSettings) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._begun = threading.Event()
        self._over = asyncio.Event()
        self._connection = _Connection(settings)
        self._boxes: set[ThreadSubscription] = set()
        # A daemon: a reader that was forgotten must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="penstock-hub", daemon=True)
        self._thread.start()
        self._begun.wait()

    def join(self, box: ThreadSubscription) -> None:
        """Deliver to a mailbox."""
        self._boxes.add(box)
        self._loop.call_soon_threadsafe(self._connection.join, box)

    def leave(self, box: ThreadSubscription) -> bool:
        """Returns whether it was the last one; then nothing but `stop` may follow."""
        self._boxes.discard(box)
        if self._boxes:
            self._loop.call_soon_threadsafe(self._connection.leave, box)
        return not self._boxes

    def stop(self, error: Exception | None = None) -> None:
        """Disconnect and end the thread; readers that are left raise ``error``."""
        if error is not None:
            for box in self._boxes:
                box.fail(error)
        self._loop.call_soon_threadsafe(self._over.set)
        if self._thread is not threading.current_thread():  # which may collect a reader, too
            self._thread.join()

    def _run(self) -> None:
        # The loop is made here, where no signal arrives: Ctrl-C in the middle of it would leave
        # half a loop, which complains when it is collected.
        with asyncio.Runner() as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun.set()
        self._connection.start()
        await self._over.wait()
        await self._connection.stop()


class Multiplexer:
    """The hub of readers in threads. ``turn`` bounds the commands under way.

    A forked child that reads begins with a hub of its own: it has neither the thread nor, in
    any usable state, the connection of its parent.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Reentrant: a forgotten reader may be collected, and leave, in the middle of any call.
        self._lock = threading.RLock()
        self._connection: _ConnectionThread | None = None
        self.turn = threading.BoundedSemaphore(COMMANDS)

    def join(self, channel: str) -> ThreadSubscription:
        """A mailbox for ``channel``: marked as soon as the subscription stands."""
        if os.getpid() != self._pid:
            self._begin()
        box = ThreadSubscription(channel)
        with self._lock:
            if self._closed:
                raise ClientClosed
            if self._connection is None:
                self._connection = _ConnectionThread(self._settings)
            self._connection.join(box)
        return box

    def leave(self, box: ThreadSubscription) -> None:
        """Give the mailbox back; behind the last one the connection is closed."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            connection = self._connection
            if connection is None or not connection.leave(box):
                return
            self._connection = None
        connection.stop()

    def close(self) -> None:
        """End all reading: readers raise `ClientClosed`."""
        if os.getpid() != self._pid:
            self._begin()
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.stop(ClientClosed())
