"""``python -m penstock.simulator``: runs a simulator and prints its address."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import NoReturn

from penstock.errors import install_command
from penstock.simulator.options import Options


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage of all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"penstock simulator: {message} (see: {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a simulator until SIGTERM or SIGINT."""
    parser = _Parser(
        prog="python -m penstock.simulator",
        description="Run a local stand-in for the Anthropic API, for ANTHROPIC_BASE_URL.",
        epilog="Directives in prompts, faults and control endpoints: docs/simulator.md.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="Address to listen on. (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help="Port to listen on; 0: any free port. (default: %(default)s)",
    )
    for each in fields(Options):
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=type(each.default),
            default=each.default,
            metavar=type(each.default).__name__.upper(),
            help=f"{each.metadata['doc']} (default: %(default)s)",
        )
    values = vars(parser.parse_args(argv))
    host, port = values.pop("host"), values.pop("port")
    try:
        options = Options(**values)
    except ValueError as error:
        parser.error(str(error))
    try:
        from penstock.simulator.server.uvicorn_server import serve
    except ImportError as error:
        parser.exit(1, f"penstock simulator: {error}. Try: {install_command('simulator')}\n")
    try:
        serve(options, host=host, port=port, ready=_announce)
    except OSError as error:
        parser.error(f"cannot listen on {host}:{port}: {error.strerror}")
    return 0


def _announce(url: str) -> None:
    # The only line on stdout: the parent process reads the port from it.
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
