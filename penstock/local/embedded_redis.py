"""A private Redis for the demo, for tests and for trying things out: started here, ended with us.

`penstock.local.server_choice` says which server that is.
"""

from pathlib import Path

import redis

from penstock.errors import LocalProcessError
from penstock.local.processes import LocalProcess, free_port
from penstock.local.server_choice import find_server
from penstock.store.connection import Connection

_STARTS = 3


class EmbeddedRedis(LocalProcess):
    """A Redis server on a free loopback port, in a folder of its own. A context manager.

    It appends every write to disk (``appendonly``), so that tests can kill and restart it and
    find what was there; ``noeviction`` as in production.
    """

    def __init__(
        self, *, folder: Path | None = None, port: int | None = None, password: str | None = None
    ) -> None:
        self.server = find_server()  #: which program runs, and why that one
        self.port = port or free_port()
        self._fixed_port = port is not None
        self._password = password
        super().__init__("redis", self._command_line(), folder=folder)

    def _command_line(self) -> list[str | Path]:
        options: dict[str, str | int] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        if self._password:
            options["requirepass"] = self._password
        pairs = ([f"--{name}", str(value)] for name, value in options.items())
        return [self.server.binary, *(part for pair in pairs for part in pair)]

    @property
    def url(self) -> str:
        """The server's address, for ``PENSTOCK_REDIS_URL``."""
        user = f":{self._password}@" if self._password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def start(self) -> "EmbeddedRedis":
        """Start the server and wait until it answers."""
        for attempt in range(_STARTS):
            if not self._fixed_port and attempt:
                self.port = free_port()
            try:
                self._launch()
            except LocalProcessError:
                # Somebody took the free port between our look and the server's bind.
                self.stop()
                if self._fixed_port or attempt == _STARTS - 1:
                    raise
            else:
                return self
        raise AssertionError("unreachable")

    def _launch(self) -> None:
        self._command = [str(part) for part in self._command_line()]
        super().start()
        with redis.Redis.from_url(self.url) as connection:
            self.wait_until(lambda: _answers(connection))


def _answers(connection: Connection) -> bool:
    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False
