"""One fault: what goes wrong, and which requests it affects."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from penstock.simulator.errors import TYPE_OF_STATUS, ApiError

#: A point in a stream: after that many deltas, counted from the end when negative; ``last``: after
#: the last delta; ``stop``: just before message_stop.
Position = int | Literal["last", "stop"]

#: Seconds of a stall without ``stall``.
DEFAULT_STALL_S = 3600.0


def _position(value: Any) -> Position:
    return value if value in ("last", "stop") else int(value)


def _flag(value: Any) -> bool:
    return value not in (False, "false", "0", 0)


def _flag_or_position(value: Any) -> Position:
    # A bare flag has no value: the first suitable place will do.
    return 0 if value in ("", True) else _position(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "status": int,
    "retry_after": float,
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
_DETAILS = frozenset({"retry_after", "error_code", "error_type", "message", "stall", "reset"})
EFFECTS = FAULT_KEYS - _DETAILS - {"times", "after"}
_CREATE_EFFECTS = frozenset(
    {"commit_then_drop", "drop_before_commit", "commit_then_status", "commit_after_s"}
)
_RESULTS_EFFECTS = frozenset(key for key in _PARSERS if key.startswith("results_"))
_ANY_REQUEST = frozenset({"status", "slow_first"})
#: The keys that make sense inside one message.
DIRECTIVE_KEYS = FAULT_KEYS - _CREATE_EFFECTS - _RESULTS_EFFECTS


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, with one or more effects."""

    status: int | None = None  #: the response is this error
    retry_after: float | None = None  #: seconds in the error's retry-after header
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
            except (TypeError, ValueError):
                raise ValueError(f"fault: invalid value {key}={value!r}") from None
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

    def matches(self, method: str, path: str, model: str | None, *, ended: bool = False) -> bool:
        """Whether the fault is meant for a request."""
        if not ended and _RESULTS_EFFECTS & set(self.effects):
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
    """Raise the error of a fault that has a status."""
    if fault is None or fault.status is None:
        return
    kind = fault.error_type or TYPE_OF_STATUS.get(fault.status)
    headers = {}
    if fault.retry_after is not None:
        headers["retry-after"] = f"{fault.retry_after:g}"
    raise ApiError(
        kind or ("api_error" if fault.status >= 500 else "invalid_request_error"),
        fault.message or "",
        status=fault.status,
        error_code=fault.error_code,
        headers=headers,
    )
