"""A pub/sub connection that many readers share, and that reconnects by itself.

Deliberately independent of Penstock's own reader: it speaks RESP itself, so that the same bug
cannot be in both.
"""

import asyncio
import contextlib
from typing import Any, Final
from urllib.parse import urlsplit

import hiredis

#: Put into a reader's queue when messages may have been lost, so that it reads the log.
REFILL: Final = b""

Queue = asyncio.Queue[bytes]


class Listener:
    """A connection that subscribes to many channels and reconnects when it is cut."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._queues: dict[bytes, set[Queue]] = {}
        self._acknowledged: dict[bytes, asyncio.Event] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._task = asyncio.create_task(self._run())
        self.messages = 0
        self.cuts = 0

    async def listen(self, channel: str) -> Queue:
        """Return a queue of the messages from now on, after Redis has acknowledged."""
        name = channel.encode()
        queue: Queue = asyncio.Queue()
        self._queues.setdefault(name, set()).add(queue)
        if name not in self._acknowledged:
            self._acknowledged[name] = asyncio.Event()
            self._send(b"SUBSCRIBE", name)
        await self._acknowledged[name].wait()
        return queue

    def unlisten(self, channel: str, queue: Queue) -> None:
        """Stop a reader's queue; the subscription itself stays until `close_channel`."""
        name = channel.encode()
        self._queues[name].discard(queue)

    def close_channel(self, channel: str) -> None:
        """End the subscription of a channel that no reader needs any more."""
        name = channel.encode()
        if self._queues.pop(name, None) is not None:
            self._acknowledged.pop(name, None)
            self._send(b"UNSUBSCRIBE", name)

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _send(self, *words: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            parts = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
            self._writer.write(b"*%d\r\n%b" % (len(words), parts))

    async def _run(self) -> None:
        while True:
            try:
                await self._receive()
            except OSError:
                pass
            finally:
                self._writer = None
            self.cuts += 1
            await asyncio.sleep(0.05)

    async def _receive(self) -> None:
        host, port = self._address.hostname, self._address.port
        source, self._writer = await asyncio.open_connection(host, port)
        self._send(b"AUTH", (self._address.password or "").encode())
        try:
            for name, event in self._acknowledged.items():
                event.clear()
                self._send(b"SUBSCRIBE", name)
            parser = hiredis.Reader()
            while data := await source.read(1 << 16):
                parser.feed(data)
                while (message := parser.gets()) is not False:
                    self._apply(message)
        finally:
            self._writer.close()

    def _apply(self, message: Any) -> None:
        if message == b"OK":
            return  # the reply to AUTH
        if not isinstance(message, list):
            raise ConnectionError("Redis is not ready")  # it is loading its data: retry
        kind, name, data = message
        if kind == b"message":
            self.messages += 1
        elif kind == b"subscribe" and name in self._acknowledged:
            self._acknowledged[name].set()
            data = REFILL
        else:
            return
        for queue in self._queues.get(name, ()):
            queue.put_nowait(data)
