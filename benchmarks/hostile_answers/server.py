"""An API that answers a request's first call with half an answer, and the next with a whole one.

The prompt names the kind of the answer and its size. It prints its address:
``python -m benchmarks.hostile_answers.server``
"""

import socket
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import orjson

from benchmarks.hostile_answers.answers import answer

_WRITE: Final = 64 * 1024
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def serve(connection: socket.socket, calls: Counter[str]) -> None:
    """Answer one call."""
    with connection, connection.makefile("rb") as incoming, suppress(OSError):
        length = 0
        while (line := incoming.readline().lower()).strip():
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        prompt = orjson.loads(incoming.read(length))["messages"][0]["content"]
        kind, size = prompt.split()[:2]
        calls[prompt] += 1
        whole = calls[prompt] > 1
        connection.sendall(_HEAD)
        send(connection, answer(kind, int(size), whole=whole))
        if whole:
            connection.sendall(b"0\r\n\r\n")


def send(connection: socket.socket, pieces: Iterable[bytes]) -> None:
    """Send a body in large chunks, as a fast API does."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        if len(waiting) >= _WRITE:
            connection.sendall(b"%x\r\n%s\r\n" % (len(waiting), waiting))
            waiting.clear()
    if waiting:
        connection.sendall(b"%x\r\n%s\r\n" % (len(waiting), waiting))


def main() -> None:
    """Serve until the process is ended."""
    calls: Counter[str] = Counter()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, calls), daemon=True).start()


if __name__ == "__main__":
    main()
