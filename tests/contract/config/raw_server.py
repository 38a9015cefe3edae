"""A server on loopback that answers each request with bytes of the test's choice."""

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class RawServer(socketserver.ThreadingTCPServer):
    """Answers with ``answer(head)``, and notes the head of each request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heads: list[str] = []  #: request line and headers
        self.answer: Callable[[str], bytes] = lambda _head: response(404)

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: RawServer

    def handle(self) -> None:
        head = ""
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            head += line.decode("latin-1")
        self.server.heads.append(head)
        self.wfile.write(self.server.answer(head))


def response(status: int, *headers: str, body: str = "") -> bytes:
    """Return a response that ends the connection."""
    lines = [f"HTTP/1.1 {status} Status", "connection: close", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", body]).encode()


@contextmanager
def raw_server() -> Iterator[RawServer]:
    """Serve a `RawServer`."""
    with RawServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
