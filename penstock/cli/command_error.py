"""How a command fails: one line on stderr and an exit code. The only place that decides it."""

import sys
from typing import IO, Any

import click

from penstock.errors import PenstockError

#: Exit codes that shells use for "ended by a signal".
INTERRUPTED = 130  # Ctrl-C
BROKEN_PIPE = 141  # whoever read our stdout has gone


class CommandError(click.ClickException):
    """An expected error: its message is all that the user sees."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line, unless there is none."""
        if not self.message:
            return
        # A terminal shows ^C where the cursor stands; our line takes its place.
        over = "\r" if self.code == INTERRUPTED and sys.stderr.isatty() else ""
        click.echo(f"{over}penstock: {self.message}", err=True)


def as_command_error(error: BaseException) -> CommandError | None:
    """The failure that ``error`` stands for, or None if nobody foresaw it."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return None
    if isinstance(error, click.UsageError):
        return CommandError(_usage(error), error.exit_code)
    if isinstance(error, click.ClickException):
        return CommandError(error.format_message(), error.exit_code)
    if isinstance(error, PenstockError):
        return CommandError(str(error))
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return CommandError("interrupted", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return CommandError("", BROKEN_PIPE)
    if isinstance(error, OSError):
        return CommandError(_system(error))
    return _driver(error)


def _usage(error: click.UsageError) -> str:
    hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
    return f"{error.format_message().rstrip('.')}{hint}"


def _system(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what


def _driver(error: BaseException) -> CommandError | None:
    # What Redis says to a command is translated by the client only where it means "unavailable".
    driver = sys.modules.get("redis")
    if driver is not None and isinstance(error, driver.RedisError):
        return CommandError(f"Redis: {error}")
    return None
