"""How Flower is started: who may use its buttons, which columns it shows, where it listens.

Without a login Flower refuses every button, because each is a call of its API. So a password is
generated, unless the operator has decided otherwise.
"""

import errno
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import Final

#: The user of a generated password.
FLOWER_USER: Final = "penstock"
#: The columns of Flower's list of tasks: how a task ended and why is in ``result`` or
#: ``exception``.
TASKS_COLUMNS: Final = "name,state,kwargs,result,exception,uuid,received,runtime,worker"

#: The options that decide who may use Flower, or that disable its buttons, or for which it does not
#: start.
_ACCESS: Final = (
    "basic_auth",
    "auth",
    "auth_provider",
    "unauthenticated_api",
    "read_only",
    "conf",
    "help",
)


def given_options(options: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the options that the operator gives to Flower, by name.

    ``options`` are those of the command line, which take precedence over ``FLOWER_*`` variables.

    >>> given_options(["--basic-auth=me:secret"], {"FLOWER_PORT": "8080"})
    {'port': '8080', 'basic_auth': 'me:secret'}
    """
    prefix = "FLOWER_"
    given = {
        name.removeprefix(prefix).lower(): value
        for name, value in environment.items()
        if name.startswith(prefix) and value
    }
    for option in options:
        name, _, value = option.lstrip("-").partition("=")
        given[name.replace("-", "_")] = value
    return given


def flower_environment(given: Mapping[str, str], password: str) -> dict[str, str]:
    """Return the variables that Penstock adds, for the options that the operator does not give.

    A password is not an option on the command line: other users of the machine can read those.
    """
    added = {}
    if not any(name in given for name in _ACCESS):
        added["FLOWER_BASIC_AUTH"] = f"{FLOWER_USER}:{password}"
    if "tasks_columns" not in given:
        added["FLOWER_TASKS_COLUMNS"] = TASKS_COLUMNS
    return added


def new_password() -> str:
    """Generate a password that is easy to copy."""
    return secrets.token_hex(8)


def busy_address(given: Mapping[str, str]) -> str | None:
    """Return the address at which Flower cannot listen because it is in use; None if it can."""
    if any(name in given for name in ("unix_socket", "conf", "help")) or os.path.exists(
        "flowerconfig.py"
    ):
        return None
    host, port = given.get("address") or "127.0.0.1", given.get("port") or "5555"
    if not port.isdecimal() or port == "0":
        return None
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            return f"{host}:{port}" if error.errno == errno.EADDRINUSE else None
        except OverflowError:
            return None
    return None
