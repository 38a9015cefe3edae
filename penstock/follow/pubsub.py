"""The connection on which a client receives its channels; opened again when it is lost.

Each channel is subscribed to by a command of its own, so that Redis can refuse one without the
others: only the readers of that channel fail. Errors that may pass end the connection, and the next
one begins with all channels again.
"""

import asyncio
import contextlib
import logging
import math
import socket
from collections import deque
from typing import Any, Final

import redis
from redis.exceptions import RedisError, ResponseError

from penstock.follow.subscription import Dispatcher, Subscription
from penstock.follow.waiting import may_succeed_later
from penstock.jitter import jitter
from penstock.settings import ClientSettings
from penstock.store.availability import CONNECTION_LOST
from penstock.store.connection import HEALTH_CHECK_S, connect_listener

logger = logging.getLogger(__name__)

#: Seconds between two attempts to reconnect: the first pause, and the maximum.
MIN_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 1.0


class PubSub:
    """The connection. All of it runs on one event loop, on which it is started."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._dispatcher = Dispatcher()
        self._changed = asyncio.Event()
        self._received = False  # since the last check of the connection
        self._served = False  # Redis has answered a command of this session
        self._unanswered: deque[tuple[str, bytes]] = deque()  # commands in the order of replies
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
                except* RedisError as group:
                    self._refused(group)
                except* Exception:  # no reader would notice that this task has ended
                    logger.exception("the pub/sub connection failed and is opened again")
                pause = MIN_PAUSE_S if self._served else min(2 * pause, MAX_PAUSE_S)
                # Many processes lose Redis at the same moment; spread their reconnects.
                await asyncio.sleep(pause * (0.5 + 0.5 * jitter()))
        finally:
            await client.aclose()

    def _refused(self, group: ExceptionGroup[RedisError]) -> None:
        """Fail the readers that wait for this connection, if Redis will never accept it."""
        error = group.exceptions[0]
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if may_succeed_later(error):
            logger.info("pub/sub connection refused: %s", error)
        else:
            self._dispatcher.fail_pending(error)

    async def _session(self, pool: Any) -> None:
        """Work with one connection until it fails."""
        self._served = False
        self._unanswered.clear()
        async with asyncio.timeout(2 * self._settings.redis_timeout_s):
            connection = await pool.get_connection()
        try:
            self._dispatcher.disconnected()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(connection))
                group.create_task(self._keep_alive(connection))
                group.create_task(self._receive(connection))
        finally:
            _shut_down(connection)
            await connection.disconnect()
            await pool.release(connection)

    async def _send(self, connection: Any) -> None:
        """Subscribe and unsubscribe as readers come and go."""
        while True:
            self._changed.clear()
            added, dropped = self._dispatcher.changes()
            # One command for each channel: Redis refuses all channels of a command, or none.
            commands = [("SUBSCRIBE", channel) for channel in added]
            commands += [("UNSUBSCRIBE", channel) for channel in dropped]
            if commands:
                self._unanswered += commands
                await connection.send_packed_command(connection.pack_commands(commands))
            await self._changed.wait()

    async def _keep_alive(self, connection: Any) -> None:
        """Check with PING that an idle connection is alive."""
        while True:
            self._received = False
            await asyncio.sleep(HEALTH_CHECK_S)
            if not self._received:
                self._unanswered.append(("PING", b""))
                await connection.send_command("PING")
                await asyncio.sleep(self._settings.redis_timeout_s)
                if not self._received:
                    raise redis.TimeoutError("no answer to PING")

    async def _receive(self, connection: Any) -> None:
        dispatcher = self._dispatcher
        while True:
            try:
                reply = await connection.read_response(
                    timeout=math.inf, disconnect_on_error=False, push_request=True
                )
            except ResponseError as error:
                self._received = True
                self._command_refused(error)
                continue
            self._received = True
            if reply[0] == b"message":
                dispatcher.deliver(reply[1], reply[2])
                continue
            self._served = True
            self._unanswered.popleft()
            if reply[0] == b"subscribe":
                dispatcher.acknowledge(reply[1])

    def _command_refused(self, error: ResponseError) -> None:
        """Fail the readers of one channel; raise what concerns the whole connection."""
        command, channel = self._unanswered.popleft() if self._unanswered else ("", b"")
        if command == "PING":
            return  # an answer all the same: a Redis that cannot save refuses it
        if command != "SUBSCRIBE" or may_succeed_later(error):
            raise error
        self._served = True
        self._dispatcher.refuse(channel, error)


def _shut_down(connection: Any) -> None:
    """End the connection for Redis, too, when a forked child still has a copy of its socket."""
    writer = connection._writer
    if writer is not None:
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
