"""How a command fails: one line on stderr and an exit code, both decided here."""

import sys
from typing import IO, Any

import click

from penstock.access.redaction import redacted
from penstock.errors import PenstockError

#: Exit code of a job that is done although some of its requests did not succeed.
UNSUCCESSFUL = 3
#: Exit codes that shells use for a process ended by a signal.
INTERRUPTED = 130  # SIGINT (Ctrl-C)
BROKEN_PIPE = 141  # SIGPIPE: the reader of our stdout has exited


class CommandError(click.ClickException):
    """An expected error, shown to the user as one line without a traceback."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on stderr, unless it is empty."""
        if not self.message:
            return
        # The terminal has just echoed ^C at the cursor; the carriage return overwrites it.
        start = "\r" if self.code == INTERRUPTED and sys.stderr.isatty() else ""
        click.echo(redacted(f"{start}penstock: {self.message}"), err=True)


def as_command_error(error: BaseException) -> CommandError | None:
    """Convert an expected error; None for an error that needs its traceback."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return None
    if isinstance(error, click.UsageError):
        return CommandError(_usage_message(error), error.exit_code)
    if isinstance(error, click.ClickException):
        return CommandError(error.format_message(), error.exit_code)
    if isinstance(error, PenstockError):
        return CommandError(str(error))
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return CommandError("interrupted", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return CommandError("", BROKEN_PIPE)
    if isinstance(error, OSError):
        return CommandError(_os_error_message(error))
    return _redis_error(error)


def _usage_message(error: click.UsageError) -> str:
    hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
    return f"{error.format_message().rstrip('.')}{hint}"


def _os_error_message(error: OSError) -> str:
    message = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {message}" if error.filename else message


def _redis_error(error: BaseException) -> CommandError | None:
    # The client translates errors that mean "Redis is unavailable"; this is for all others.
    redis = sys.modules.get("redis")
    if redis is not None and isinstance(error, redis.RedisError):
        return CommandError(f"Redis: {error}")
    return None
