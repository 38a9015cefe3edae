"""One pub/sub connection for all readers of a client, however many streams they follow.

The connection is opened for the first reader and closed after the last. When it is lost, it is
opened again, with growing pauses, while there are readers; then all of them are notified that they
may have missed events. `AsyncMultiplexer` runs on the event loop of its readers. `Multiplexer` runs
the same code on its own loop in a background thread: readers in threads never use the socket, which
TLS would not survive.
"""

import asyncio
import threading
from typing import Final

from penstock.errors import ClientClosed
from penstock.follow import forks
from penstock.follow.pubsub import PubSub
from penstock.follow.subscription import Received, Subscription
from penstock.settings import ClientSettings

#: Maximum commands that the readers of one client run at the same time. After a lost connection
#: all of them read at once; a thousand connections would take Redis longer than a few in turn.
MAX_COMMANDS: Final = 8


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
        self._pubsub: PubSub | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.command_slots = asyncio.Semaphore(MAX_COMMANDS)

    def check_open(self) -> None:
        """Raise `ClientClosed` after `close`, and `RuntimeError` on another event loop."""
        if self._closed:
            raise ClientClosed
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "this stream is read on another event loop; to continue on this one, "
                "attach to the request again, after the stream's cursor"
            )

    def join(self, channel: str) -> TaskSubscription:
        """Subscribe to ``channel``. Raises `ClientClosed`."""
        self.check_open()
        if self._pubsub is None:
            self._pubsub = PubSub(self._settings)
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

    def __init__(self, channel: str, process: object) -> None:
        super().__init__(channel)
        self.process = process  #: see `Multiplexer`
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
        self._pubsub = PubSub(settings)
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
    copy of its connection. Its readers of before the fork subscribe again.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._closed = False
        self._pubsub: _PubSubThread | None = None
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._process = object()  # identifies what belongs to this process, not to its parent
        # Reentrant: a reader may be garbage-collected, and leave, in the middle of any call.
        self._lock = threading.RLock()
        self.command_slots = threading.BoundedSemaphore(MAX_COMMANDS)

    def begin_in_child(self) -> None:
        """Forget what belongs to the parent process. A lock may be held by one of its threads."""
        if self._pubsub is not None:
            forks.keep(self._pubsub)
            self._pubsub = None
        self._begin()

    def check_open(self) -> None:
        """Raise `ClientClosed` after `close`."""
        if self._closed:
            raise ClientClosed

    def join(self, channel: str) -> ThreadSubscription:
        """Subscribe to ``channel``. Raises `ClientClosed`."""
        subscription = ThreadSubscription(channel, self._process)
        with self._lock:
            self.check_open()
            if self._pubsub is None:
                self._pubsub = _PubSubThread(self._settings)
            self._pubsub.join(subscription)
        return subscription

    def joined(self, subscription: ThreadSubscription | None, channel: str) -> ThreadSubscription:
        """Return ``subscription``; join if it is None, or of the process that forked this one."""
        if subscription is not None and subscription.process is self._process:
            return subscription
        return self.join(channel)

    def leave(self, subscription: ThreadSubscription) -> None:
        """End a subscription. After the last one the connection is closed."""
        if subscription.process is not self._process:
            return
        with self._lock:
            pubsub = self._pubsub
            if pubsub is None or not pubsub.leave(subscription):
                return
            self._pubsub = None
        pubsub.stop()

    def close(self) -> None:
        """Close the connection. Readers raise `ClientClosed`."""
        with self._lock:
            self._closed = True
            pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.stop(ClientClosed())
