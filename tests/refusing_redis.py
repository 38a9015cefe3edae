"""A proxy in front of a real Redis that makes it refuse commands, answer garbage or hang.

A refused command reaches Redis as a script that returns the error, so replies keep their order and
transactions fail as they do with a server that refuses by itself.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self

#: The reply to a command, by its name in capitals; None: Redis's own.
Fault = Callable[[str], str | None]

#: As a fault's reply: bytes that are not RESP.
GARBAGE = "garbage"


def every_command(reply: str) -> Fault:
    """Give this error to every command."""
    return lambda _name: reply


def only(*names: str, reply: str) -> Fault:
    """Give this error to the commands with these names."""
    return lambda name: reply if name in names else None


class RefusingRedis:
    """A proxy on a loopback port; a context manager.

    ``fault`` may be set at any time. `hang` leaves all connections open and passes nothing on.
    """

    def __init__(self, port: int) -> None:
        """``port``: that of the Redis to which it passes commands on."""
        self.fault: Fault | None = None
        self._upstream = port
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def hang(self) -> None:
        """Pass nothing on until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass on what has arrived, and what follows."""
        self._flowing.set()

    def __enter__(self) -> Self:
        self._thread(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flowing.set()
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _thread(self, work: Callable[..., None], *args: object) -> None:
        threading.Thread(target=self._guarded, args=(work, *args), daemon=True).start()

    def _guarded(self, work: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(OSError, ValueError):  # a connection was closed
            work(*args)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._upstream))
            self._sockets += [client, server]
            self._thread(self._requests, client, server)
            self._thread(self._replies, server, client)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        try:
            with client.makefile("rb") as stream:
                while parts := _command(stream):
                    self._flowing.wait()
                    reply = self.fault and self.fault(parts[0].decode().upper())
                    if reply == GARBAGE:
                        client.sendall(b"?? this is not RESP\r\n")
                    elif reply:
                        server.sendall(_packed(b"EVAL", _returning(reply), b"0"))
                    else:
                        server.sendall(_packed(*parts))
        finally:
            server.shutdown(socket.SHUT_RDWR)

    def _replies(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                self._flowing.wait()
                client.sendall(data)
        finally:
            client.shutdown(socket.SHUT_RDWR)


def _returning(error: str) -> bytes:
    return f"return redis.error_reply([[{error}]])".encode()


def _command(stream: BinaryIO) -> list[bytes]:
    """Read a command; empty at the end of the stream."""
    count = int(stream.readline()[1:] or 0)
    parts = []
    for _ in range(count):
        size = int(stream.readline()[1:])
        parts.append(stream.read(size + 2)[:-2])
    return parts


def _packed(*parts: bytes) -> bytes:
    bulk = (b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n%s" % (len(parts), b"".join(bulk))


WRITES = ("BRPOP", "DEL", "EVALSHA", "EXEC", "HDEL", "HSET", "LPUSH", "PEXPIRE", "SADD", "SET")

#: What a Redis may refuse: name → fault.
REFUSALS: dict[str, Fault] = {
    "a replica": only(*WRITES, "SREM", "XADD", "ZADD", "ZREM", reply="READONLY a replica"),
    "a full Redis": every_command("OOM command not allowed when used memory > 'maxmemory'"),
    "an unblocked consumer": only("BRPOP", reply="UNBLOCKED by CLIENT UNBLOCK"),
    "a full disk": every_command("MISCONF Errors writing to the AOF file"),
    "too few replicas": every_command("NOREPLICAS Not enough good replicas to write."),
    "a start of Redis": every_command("LOADING Redis is loading the dataset in memory"),
    "a long script": every_command("BUSY Redis is busy running a script."),
    "a lost primary": every_command("MASTERDOWN Link with MASTER is down"),
    "a resharding": every_command("TRYAGAIN Multiple keys request during rehashing of slot"),
    "a cluster that is down": every_command("CLUSTERDOWN The cluster is down"),
    "a missing permission": every_command("NOPERM User has no permissions"),
    "no right to subscribe": only("PSUBSCRIBE", "SUBSCRIBE", reply="NOPERM no channels"),
    "a changed password": every_command("NOAUTH Authentication required."),
    "too many clients": every_command("ERR max number of clients reached"),
    "a renamed command": only("BRPOP", "ZADD", reply="ERR unknown command"),
    "a key of another type": only("SADD", "SMEMBERS", "ZADD", reply="WRONGTYPE Operation"),
    "garbage": every_command(GARBAGE),
}
