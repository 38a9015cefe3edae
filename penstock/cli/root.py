"""The root command group: imports commands on demand, reports errors."""

import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from penstock.access.redaction import redact_process
from penstock.cli.command_error import BROKEN_PIPE, as_command_error

Sections = Mapping[str, Mapping[str, tuple[str, str]]]


class RootGroup(click.Group):
    """A group that lists its commands without importing them."""

    def __init__(self, *args: Any, commands_by_section: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = commands_by_section
        self._modules = {
            name: module
            for section in commands_by_section.values()
            for name, (module, _) in section.items()
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of the help."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None if there is none of this name."""
        if cmd_name not in self._modules:
            return None
        command = getattr(import_module(self._modules[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, section by section, without importing them."""
        width = max(map(len, self._modules))
        for title, section in self._sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), short_help) for name, (_, short_help) in section.items()]
                )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C and expected OS errors become a `CommandError`."""
        try:
            return super().invoke(ctx)
        # Here and not in `main`, because click would handle these itself before `main` sees them.
        except (KeyboardInterrupt, OSError) as error:
            raise as_command_error(error) or error from error

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> Any:
        """Parse ``args``, run the command and exit with its exit code."""
        extra["standalone_mode"] = False
        _print_every_character()
        redact_process(os.environ)
        try:
            code = super().main(args, **extra)
            sys.stdout.flush()
        except Exception as error:
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _print_every_character() -> None:
    """Escape characters that the terminal's encoding lacks, as Python does on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _report(error: Exception) -> int:
    """Print an expected error and return its exit code; raise any other error again."""
    command_error = as_command_error(error)
    if command_error is None and isinstance(error, click.UsageError):
        error.show()  # called without arguments: prints the help
        return error.exit_code
    if command_error is None:
        raise error
    if command_error.code == BROKEN_PIPE:
        _discard_stdout()
    command_error.show()
    return command_error.code


def _discard_stdout() -> None:
    # Python flushes stdout when it exits and would report the closed pipe.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
