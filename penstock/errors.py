"""The errors of Penstock. The first line of a class's docstring is its default message."""

from typing import Any, Final

#: The name of the distribution, which is what pip installs. The package in it is imported as
#: ``penstock``; on PyPI that name belongs to another project.
DISTRIBUTION: Final = "penstock-celery"


def install_command(extra: str) -> str:
    """Return the shell command that installs Penstock with this extra.

    >>> install_command("demo")
    "pip install 'penstock-celery[demo]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"


class PenstockError(Exception):
    """Something went wrong in Penstock.

    The base class of all errors of Penstock. Its message is one line. Errors can be pickled.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # By default pickle calls the constructor with the message alone, which most do not accept.
        return _restored, (type(self), str(self)), self.__dict__


def _restored(kind: type[PenstockError], message: str) -> PenstockError:
    return kind.__new__(kind, message)


class ConfigurationError(PenstockError):
    """A setting is missing, or its value cannot be used."""


class InvalidRequest(PenstockError):
    """The API would reject the request, or a limit of Penstock does, so it was not enqueued.

    ``problem`` says what is wrong. ``field`` names the field, as a path into the request such as
    ``messages.0.role``; None if the whole request is meant. ``line`` is the number of the request
    in a batch, or of its line in a file, counted from 1; None outside batches.
    """

    def __init__(self, problem: str, *, field: str | None = None, line: int | None = None) -> None:
        self.problem = problem
        self.field = field
        self.line = line
        where = f"line {line}: " if line is not None else ""
        what = f"{field}: " if field else ""
        super().__init__(f"{where}{what}{problem}")

    def inside(self, parent: str) -> "InvalidRequest":
        """The same error with ``parent`` as the first part of ``field``."""
        field = f"{parent}.{self.field}" if self.field else parent
        return InvalidRequest(self.problem, field=field, line=self.line)

    def at_line(self, line: int) -> "InvalidRequest":
        """The same error with the number of its line."""
        return InvalidRequest(self.problem, field=self.field, line=line)


class RedisUnavailable(PenstockError):
    """Redis cannot be reached; nothing was enqueued, and enqueued work is not affected."""


class ClientClosed(PenstockError):
    """The client was closed while a stream was being read.

    What was read is not the whole answer, and the request runs on: another client can attach to it
    after the stream's cursor.
    """


class SpoolUnavailable(PenstockError):
    """The files of the spool cannot be read or written."""


class NotFound(PenstockError):
    """There is no record with this id: it never existed, or it has expired."""


class RecordUnreadable(PenstockError):
    """A record in Redis is not one that this version can read."""


class NotEnded(PenstockError):
    """The request or the job is still running, so it has no result yet."""


class RequestFailed(PenstockError):
    """The request ended with an error.

    ``error`` is the error object of the last event: ``type`` and ``message`` as in the API's errors
    and, for an error response of the API, ``status`` and ``request_id``. ``text`` is the visible
    text received before the error.
    """

    def __init__(self, error: dict[str, Any], *, text: str = "") -> None:
        self.error = error
        self.text = text
        super().__init__(f"{error.get('type', 'error')}: {error.get('message', 'no message')}")


class RequestCanceled(PenstockError):
    """The request was canceled.

    ``text`` is the visible text received before that.
    """

    def __init__(self, message: str | None = None, *, text: str = "") -> None:
        self.text = text
        super().__init__(message)


class TextRewound(PenstockError):
    """Text that was read from a text_stream was withdrawn, and other text followed.

    This happens if an interrupted answer is restarted (``on_interrupt="restart"``), or if Redis has
    lost what was read. To continue, open another ``text_stream`` of the same request. A reader of
    events receives ``penstock.rewind`` instead of this error.
    """


class MissingDependency(PenstockError):
    """An optional package is not installed."""

    def __init__(self, what: str, extra: str = "", *, hint: str = "") -> None:
        hint = hint or f"Try: {install_command(extra)}"
        super().__init__(f"{what} is not installed. {hint}")


class LocalProcessError(PenstockError):
    """A local process (Redis, simulator, worker, Flower) did not start or ended too early."""
