"""The listening socket, and what the simulator adds to uvicorn."""

import asyncio
import gc
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.simulator.exchange import DISCONNECT_EXTENSION
from penstock.simulator.options import Options
from penstock.simulator.server.app import create_app

#: Objects allocated between two garbage collections. With Python's 700, a third of the time of
#: parsing a batch of 100,000 requests goes into collections while it is parsed.
_GC_THRESHOLD = 200_000

_LINGER_RESET = struct.pack("ii", 1, 0)


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a way for the application to cut the connection."""

    def on_message_begin(self) -> None:
        """Offer the extension to every request."""
        super().on_message_begin()
        self.scope["extensions"] = {
            DISCONNECT_EXTENSION: {"cut": self._drop, "write": self.transport.write}
        }

    def _drop(self, reset: bool) -> None:
        if not reset:
            self.transport.close()
            return
        # Without time to linger, closing discards the buffer and sends RST instead of FIN.
        connection: socket.socket = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn's server, which calls ``ready`` once it accepts connections."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, then report ready."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop without waiting for open streams."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, and let the process then exit with status 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def serve(options: Options, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. Calls ``ready`` with the base URL."""
    gc.set_threshold(_GC_THRESHOLD)
    listener = socket.create_server((host, port), backlog=2048)
    address = listener.getsockname()
    config = uvicorn.Config(
        create_app(options),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # Longer than clients keep an idle connection: if the server closed first, a request
        # could be sent on a connection that is just being closed.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    server = Server(config, lambda: ready(f"http://{address[0]}:{address[1]}"))
    with listener, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))


def _loop_factory() -> Callable[[], Any]:
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        return asyncio.new_event_loop
    return uvloop.new_event_loop
