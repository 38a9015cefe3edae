"""A private Redis server for the demo, for ``up`` and for tests.

`penstock.local.server_choice` selects the program that runs.
"""

import secrets
from functools import cache
from pathlib import Path

import redis

from penstock.errors import LocalProcessError
from penstock.local.processes import LocalProcess, free_port
from penstock.local.server_choice import find_server
from penstock.store.connection import Connection

#: Maximum number of starts, each on another free port.
_MAX_STARTS = 3


class EmbeddedRedis(LocalProcess):
    """A Redis server on a loopback port, in a folder of its own; a context manager.

    It runs with ``appendonly yes``, so that a test can kill and restart it without losing data,
    and with ``noeviction``, as in production. It has a random password, so that no other user of
    the machine can use it; ``password`` sets another one. The password is in `url`, and on no
    command line. Raises `MissingDependency` if there is no server that Penstock can use::

        with EmbeddedRedis() as server, Client(server.url) as client:
            client.messages.enqueue(**body)
    """

    def __init__(
        self, *, folder: Path | None = None, port: int | None = None, password: str | None = None
    ) -> None:
        self.server = find_server()  #: the program that runs, and those skipped
        self.port = port or free_port()
        self._fixed_port = port is not None
        self._password = password or _own_password()
        super().__init__("redis", [self.server.binary, "-"], folder=folder)

    def _configuration(self) -> str:
        """Return what the server reads from its standard input."""
        options: dict[str, str | int] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "requirepass": self._password,
        }
        return "".join(f'{name} "{value}"\n' for name, value in options.items())

    @property
    def url(self) -> str:
        """The URL of the server, for ``PENSTOCK_REDIS_URL``."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self) -> "EmbeddedRedis":
        """Start the server and wait until it responds."""
        for attempt in range(_MAX_STARTS):
            if not self._fixed_port and attempt:
                self.port = free_port()
            try:
                self._launch()
            except LocalProcessError:
                # Another process may have bound the port after we found it free.
                self.stop()
                if self._fixed_port or attempt == _MAX_STARTS - 1:
                    raise
            else:
                return self
        raise AssertionError("unreachable")

    def _launch(self) -> None:
        self._input = self._configuration().encode()
        super().start()
        with redis.Redis.from_url(self.url) as connection:
            self.wait_until(lambda: _responds(connection))


@cache
def _own_password() -> str:
    """Return the password of this process's servers: one that is started again keeps it."""
    return secrets.token_hex(24)


def _responds(connection: Connection) -> bool:
    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False
