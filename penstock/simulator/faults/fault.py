"""One fault: what goes wrong, and which requests it affects."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from penstock.simulator.errors import TYPE_OF_STATUS, ApiError
from penstock.simulator.faults.malformed_events import MALFORMED_EVENTS
from penstock.simulator.faults.malformed_headers import MALFORMED_HEADERS
from penstock.simulator.faults.malformed_responses import (
    FIXED_RESPONSES,
    MALFORMED_RESPONSES,
    FixedResponse,
)
from penstock.simulator.faults.odd_batches import ODD_BATCHES

#: A point in a stream: after that many deltas, counted from the end when negative; ``last``: after
#: the last delta; ``stop``: just before message_stop; ``start``: before the first event.
Position = int | Literal["start", "last", "stop"]

#: Seconds of a stall without ``stall``.
DEFAULT_STALL_S = 3600.0


def _position(value: Any) -> Position:
    return value if value in ("start", "last", "stop") else int(value)


def _flag(value: Any) -> bool:
    return value not in (False, "false", "0", 0)


def _flag_or_position(value: Any) -> Position:
    # A bare flag has no value: the first suitable place will do.
    return 0 if value in ("", True) else _position(value)


def _header(value: Any) -> str:
    # Text is sent as it is, such as a date or "inf".
    return f"{value:g}" if isinstance(value, float) else str(value)


def one_of(names: Collection[str]) -> Callable[[Any], str]:
    """A parser that accepts only these names."""

    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(sorted(names))}")
        return str(value)

    return parse


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "status": int,
    "retry_after": _header,
    "error_code": str,
    "error_type": str,
    "message": str,
    "slow_first": float,
    "disconnect_after": _position,
    "eof_after": _position,
    "error_after": _position,
    "stall_after": _position,
    "stall": float,
    "chunk": int,
    "crlf": _flag,
    "reset": _flag,
    "drop_mid_char": _flag_or_position,
    "malformed": one_of(MALFORMED_EVENTS),
    "at": _position,
    "response": one_of(MALFORMED_RESPONSES),
    "headers": one_of(MALFORMED_HEADERS),
    "drop_headers": one_of(("before", "inside")),
    "odd_batch": one_of(ODD_BATCHES),
    "commit_then_drop": _flag,
    "drop_before_commit": _flag,
    "commit_then_status": int,
    "commit_after_s": float,
    "results_cut": int,
    "results_end": int,
    "results_skip": int,
    "results_double": int,
    "results_foreign": int,
    "results_blank": int,
    "results_lag": _flag,
    "times": int,
    "after": int,
    "path": str,
    "method": str,
    "model": str,
}
FILTERS = frozenset({"path", "method", "model"})
FAULT_KEYS = frozenset(_PARSERS) - FILTERS
_DETAILS = frozenset({"retry_after", "error_code", "error_type", "message", "stall", "reset", "at"})
EFFECTS = FAULT_KEYS - _DETAILS - {"times", "after"}
_CREATE_EFFECTS = frozenset(
    {"commit_then_drop", "drop_before_commit", "commit_then_status", "commit_after_s"}
)
_RESULTS_EFFECTS = frozenset(key for key in _PARSERS if key.startswith("results_"))
_ANY_REQUEST = frozenset({"status", "slow_first"})
#: They make sense for any request, but without a path they affect messages.
_ANY_PATH = _ANY_REQUEST | {"response", "headers", "drop_headers"}
#: The keys that make sense inside one message.
DIRECTIVE_KEYS = FAULT_KEYS - _CREATE_EFFECTS - _RESULTS_EFFECTS - {"odd_batch"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, with one or more effects."""

    status: int | None = None  #: the response is this error
    retry_after: str | None = None  #: the error's retry-after header
    error_code: str | None = None  #: the error's details.error_code
    error_type: str | None = None  #: the error's type
    message: str | None = None  #: the error's message
    slow_first: float | None = None  #: seconds before the first byte
    disconnect_after: Position | None = None  #: cut the connection here
    eof_after: Position | None = None  #: end the body properly here
    error_after: Position | None = None  #: send an error event here, and end the body
    stall_after: Position | None = None  #: send nothing from here on for ``stall`` seconds
    stall: float | None = None  #: seconds of the stall
    chunk: int | None = None  #: bytes of each write
    crlf: bool | None = None  #: end lines in CR LF
    reset: bool | None = None  #: cut the connection with a TCP reset
    drop_mid_char: Position | None = None  #: cut the connection inside a character from here on
    malformed: str | None = None  #: malform an event of the stream in this way
    at: Position | None = None  #: the delta that is malformed
    response: str | None = None  #: send this instead of the API's response
    headers: str | None = None  #: add these headers to the response
    drop_headers: str | None = None  #: cut the connection before or inside the headers
    odd_batch: str | None = None  #: show batches in this odd way
    commit_then_drop: bool | None = None  #: create the batch, then cut the connection
    drop_before_commit: bool | None = None  #: cut the connection without a batch
    commit_then_status: int | None = None  #: create the batch, then respond with this error
    commit_after_s: float | None = None  #: seconds until the batch is created
    results_cut: int | None = None  #: cut the connection after this many bytes
    results_end: int | None = None  #: end the body properly before this line
    results_skip: int | None = None  #: leave out this line
    results_double: int | None = None  #: repeat this line at the end
    results_foreign: int | None = None  #: insert a line of another batch before this line
    results_blank: int | None = None  #: insert a blank line before this line
    results_lag: bool | None = None  #: have no results yet, although the batch has ended
    times: int = 1  #: requests for which it fires; 0: no limit
    after: int = 0  #: matching requests that pass before it fires
    path: str | None = None  #: affects only paths that match, with ``*`` as wildcard
    method: str | None = None  #: affects only this method
    model: str | None = None  #: affects only models that match, with ``*`` as wildcard

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Fault":
        """Read a fault from text or JSON values. Raises `ValueError` naming the key."""
        parsed = {}
        for key, value in values.items():
            if key not in _PARSERS:
                raise ValueError(f"fault: unknown key {key!r}")
            try:
                parsed[key] = _PARSERS[key](value)
            except (TypeError, ValueError) as error:
                words = f": {error}" if "must be" in str(error) else ""
                raise ValueError(f"fault: invalid value {key}={value!r}{words}") from None
        fault = cls(**parsed)
        if not fault.effects:
            raise ValueError("fault: has no effect, such as status or disconnect_after")
        return fault

    @property
    def effects(self) -> tuple[str, ...]:
        """The names of what this fault does."""
        return tuple(f.name for f in fields(self) if f.name in EFFECTS and self._has(f.name))

    def _has(self, name: str) -> bool:
        value = getattr(self, name)
        # Not `in (None, False)`: a position of 0 equals False.
        return value is not None and value is not False

    @property
    def commits(self) -> bool:
        """Whether a batch is created before the response that it asks for."""
        return self.commit_then_status is not None

    def matches(self, method: str, path: str, model: str | None, *, ended: bool = False) -> bool:
        """Whether the fault is meant for a request."""
        if not ended and _RESULTS_EFFECTS & set(self.effects):
            return False
        if self.odd_batch and path.endswith("/results"):
            return False
        wanted_method, wanted_path = self._default_target()
        return (
            fnmatchcase(path, self.path or wanted_path)
            and method == (self.method or wanted_method or method).upper()
            and (self.model is None or fnmatchcase(model or "", self.model))
        )

    def _default_target(self) -> tuple[str | None, str]:
        """Where the effects make sense, for faults that name no path."""
        effects = set(self.effects)
        if effects <= _ANY_REQUEST:
            return None, "/v1/*"
        if self.path and effects <= _ANY_PATH:
            return None, self.path
        if "odd_batch" in effects:
            return "GET", "/v1/messages/batches/*"
        if effects & _CREATE_EFFECTS:
            return "POST", "/v1/messages/batches"
        if "results_lag" in effects:
            return "GET", "/v1/messages/batches/*"
        if effects & _RESULTS_EFFECTS or (self.path or "").endswith("/results"):
            return "GET", "/v1/messages/batches/*/results"
        return "POST", "/v1/messages"

    def merged_over(self, other: "Fault") -> "Fault":
        """Both faults in one; this one's values win."""
        own = {key: value for key, value in asdict(self).items() if value is not None}
        return replace(other, **own)


def raise_status(fault: Fault | None) -> None:
    """Raise the error, or the fixed response, of a fault that has a status or one."""
    if fault is None:
        return
    if fault.response in FIXED_RESPONSES and not (fault.commits and fault.status is None):
        raise FixedResponse(fault.response, fault.status or 200)
    if fault.status is None:
        return
    kind = fault.error_type or TYPE_OF_STATUS.get(fault.status)
    headers = {}
    if fault.retry_after is not None:
        headers["retry-after"] = fault.retry_after
    raise ApiError(
        kind or ("api_error" if fault.status >= 500 else "invalid_request_error"),
        fault.message or "",
        status=fault.status,
        error_code=fault.error_code,
        headers=headers,
    )
