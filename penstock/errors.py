"""One tree of errors. The docstring of a class is its default message, so it cannot be missing."""

from typing import Any


class PenstockError(Exception):
    """Something went wrong in Penstock."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the constructor with the message alone, which most of ours refuse.
        return _restored, (type(self), str(self)), self.__dict__


def _restored(kind: type[PenstockError], message: str) -> PenstockError:
    return kind.__new__(kind, message)


class ConfigurationError(PenstockError):
    """A setting is missing or has a value that cannot be used."""


class InvalidRequest(PenstockError):
    """The request would be refused by the API, so it was not enqueued.

    ``problem`` says what is wrong; ``field`` names where, as a path into the request such as
    ``messages.0.role``; ``line`` is the number of the line in a batch, counted from 1.
    """

    def __init__(self, problem: str, *, field: str | None = None, line: int | None = None) -> None:
        self.problem = problem
        self.field = field
        self.line = line
        where = f"line {line}: " if line is not None else ""
        what = f"{field}: " if field else ""
        super().__init__(f"{where}{what}{problem}")

    def inside(self, parent: str) -> "InvalidRequest":
        """The same error, seen from the object that holds the request in its field ``parent``."""
        field = f"{parent}.{self.field}" if self.field else parent
        return InvalidRequest(self.problem, field=field, line=self.line)

    def at_line(self, line: int) -> "InvalidRequest":
        """The same error, with the number of its line."""
        return InvalidRequest(self.problem, field=self.field, line=line)


class RedisUnavailable(PenstockError):
    """Redis cannot be reached. What was to be enqueued was not; what is enqueued goes on."""


class SpoolUnavailable(PenstockError):
    """The files of the spool cannot be read or written."""


class NotFound(PenstockError):
    """There is no record under this id: it never existed, or it has expired."""


class NotEnded(PenstockError):
    """The work is still going on, so it has no result yet."""


class RequestFailed(PenstockError):
    """The request ended in an error.

    ``error`` is the error object of the last event (``type`` and ``message`` as the API names
    them); ``text`` is what had been received by then and is kept.
    """

    def __init__(self, error: dict[str, Any], *, text: str = "") -> None:
        self.error = error
        self.text = text
        super().__init__(f"{error.get('type', 'error')}: {error.get('message', 'no message')}")


class RequestCanceled(PenstockError):
    """The request was canceled; ``text`` is what had been received by then and is kept."""

    def __init__(self, message: str | None = None, *, text: str = "") -> None:
        self.text = text
        super().__init__(message)


class TextRewound(PenstockError):
    """Text that was read from a text_stream has been taken back, and other text has come.

    This happens to requests that start anew behind a break (``restart``), or when Redis has lost
    what was read. Whoever iterates over the events gets ``penstock.rewind`` and can go on; so
    can a new ``text_stream`` of the same request.
    """


class MissingDependency(PenstockError):
    """An optional package is not installed."""

    def __init__(self, what: str, extra: str = "", *, hint: str = "") -> None:
        hint = hint or f"Try: pip install 'penstock[{extra}]'"
        super().__init__(f"{what} is not installed. {hint}")


class LocalProcessError(PenstockError):
    """A local process (Redis, simulator, worker, Flower) did not start or ended too early."""
