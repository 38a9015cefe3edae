"""The group behind ``penstock``: imports commands when they are used, and ends every failure."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from penstock.cli.command_error import BROKEN_PIPE, as_command_error

Sections = Mapping[str, Mapping[str, tuple[str, str]]]


class RootGroup(click.Group):
    """A group that knows its commands' names and purposes before it imports any of them."""

    def __init__(self, *args: Any, commands_by_section: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = commands_by_section
        self._modules = {
            name: module
            for section in commands_by_section.values()
            for name, (module, _) in section.items()
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._modules:
            return None
        command = getattr(import_module(self._modules[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        width = max(map(len, self._modules))
        for title, section in self._sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), purpose) for name, (_, purpose) in section.items()]
                )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever is expected to go wrong becomes a `CommandError`."""
        try:
            return super().invoke(ctx)
        # Here and not in `main`, because click would answer these in its own way first.
        except (KeyboardInterrupt, OSError) as error:
            raise as_command_error(error) or error from error

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> Any:
        """Parse ``args``, run, and exit with the code that tells how it went."""
        extra["standalone_mode"] = False
        try:
            code = super().main(args, **extra)
            sys.stdout.flush()
        except Exception as error:
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Print what ``error`` means to the user and return the exit code, or raise it again."""
    failure = as_command_error(error)
    if failure is None and isinstance(error, click.UsageError):
        error.show()  # no arguments at all: the help
        return error.exit_code
    if failure is None:
        raise error
    if failure.code == BROKEN_PIPE:
        _abandon_stdout()
    failure.show()
    return failure.code


def _abandon_stdout() -> None:
    # Python flushes stdout once more at its end, and would complain about the closed pipe.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
