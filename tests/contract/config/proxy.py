"""An HTTP proxy and an API on loopback, for tests of the workers' HTTP clients."""

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

#: An empty list of batches.
_LIST = json.dumps({"data": [], "has_more": False, "first_id": None, "last_id": None}).encode()


class _Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(_LIST)))
        self.end_headers()
        self.wfile.write(_LIST)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def api(certificate: Path | None = None) -> Iterator[str]:
    """Serve an API that has no batches; yields its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Proxy(socketserver.ThreadingTCPServer):
    """Forwards HTTP requests and tunnels, and notes the first line of each."""

    daemon_threads = True

    def __init__(self, *, status: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.status = status  #: with which every request is refused; 0: it is not
        self.requests: list[str] = []
        self.heads: list[str] = []

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"


@contextmanager
def proxy(*, status: int = 0) -> Iterator[Proxy]:
    """Serve a proxy."""
    with Proxy(status=status) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Forwarder(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        line = self.rfile.readline().decode()
        head = b""
        while (following := self.rfile.readline()) not in (b"\r\n", b""):
            head += following
        self.server.requests.append(line.strip())
        self.server.heads.append(head.decode().lower())
        if self.server.status:
            self.wfile.write(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % self.server.status)
            return
        method, target, version = line.split()
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        with socket.create_connection((parts.hostname or "", parts.port or 80)) as there:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = target.split(parts.netloc, 1)[1]
                there.sendall(f"{method} {path} {version}\r\n".encode() + head + b"\r\n")
            back = threading.Thread(target=_pump, args=(there, self.connection))
            back.start()
            _pump(self.connection, there)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65_536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the other side has closed the connection
