"""Certificates, and a server that ends TLS in front of a Redis without it."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Signs certificates for servers, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "ca.pem"  #: its own certificate
        folder.mkdir(exist_ok=True)
        self._openssl(
            *("req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=penstock test authority"),
            *("-addext", "keyUsage=critical,keyCertSign,digitalSignature"),
            *("-keyout", "ca.key", "-out", "ca.pem"),
        )

    def certificate(self, name: str, *, host: str = "IP:127.0.0.1", days: int = 2) -> Path:
        """Return the file of a certificate for ``host``, with its key."""
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={host}\n")
        self._openssl(
            *("req", *_KEY, "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-set_serial", str(abs(hash(name)) + 1), "-extfile", f"{name}.ext"),
            *("-days", str(days), "-out", f"{name}.crt"),
        )
        file = self.folder / f"{name}.pem"
        parts = [self.folder / f"{name}.key", self.folder / f"{name}.crt"]
        file.write_bytes(b"".join(part.read_bytes() for part in parts))
        return file

    def _openssl(self, *arguments: str) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("needs the command openssl")
        subprocess.run([openssl, *arguments], cwd=self.folder, check=True, capture_output=True)


class TlsServer:
    """Accepts TLS with a certificate, and forwards to a port on loopback."""

    def __init__(self, certificate: Path, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._forward_to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = b""  #: everything that was sent to it, without TLS

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, plain: socket.socket) -> None:
        with suppress(OSError), plain:
            connection = self._context.wrap_socket(plain, server_side=True)
            with (
                connection,
                socket.create_connection(("127.0.0.1", self._forward_to)) as there,
            ):
                # Each direction has a thread, so a read of the one never waits for the other.
                back = threading.Thread(target=_pump, args=(there, connection), daemon=True)
                back.start()
                with suppress(OSError):
                    while piece := connection.recv(65_536):
                        self.received += piece
                        there.sendall(piece)
                with suppress(OSError):
                    there.shutdown(socket.SHUT_RDWR)
                back.join()

    def close(self) -> None:
        """Stop accepting connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextmanager
def tls_server(certificate: Path, port: int) -> Iterator[TlsServer]:
    """Serve a `TlsServer` in front of ``port``."""
    server = TlsServer(certificate, port)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
