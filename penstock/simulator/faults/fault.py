"""One fault: what goes wrong, and which requests it meets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from penstock.simulator.errors import TYPE_OF_STATUS, ApiError

Position = int | Literal["last", "stop"]
"""A point in a stream: deltas before it, or from the end when negative; or before message_stop."""

DEFAULT_STALL_S = 3600.0


def _position(value: Any) -> Position:
    return value if value in ("last", "stop") else int(value)


def _flag(value: Any) -> bool:
    return value not in (False, "false", "0", 0)


def _flag_or_position(value: Any) -> Position:
    # As a bare flag it has no value: the first suitable place will do.
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
DIRECTIVE_KEYS = FAULT_KEYS - _CREATE_EFFECTS - _RESULTS_EFFECTS
"""The keys that make sense inside one message."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, possibly of several effects. The package's docstring explains each key."""

    status: int | None = None
    retry_after: float | None = None
    error_code: str | None = None
    error_type: str | None = None
    message: str | None = None
    slow_first: float | None = None
    disconnect_after: Position | None = None
    eof_after: Position | None = None
    error_after: Position | None = None
    stall_after: Position | None = None
    stall: float | None = None
    chunk: int | None = None
    crlf: bool | None = None
    reset: bool | None = None
    drop_mid_char: Position | None = None
    commit_then_drop: bool | None = None
    drop_before_commit: bool | None = None
    commit_then_status: int | None = None
    commit_after_s: float | None = None
    results_cut: int | None = None
    results_end: int | None = None
    results_skip: int | None = None
    results_double: int | None = None
    results_foreign: int | None = None
    results_blank: int | None = None
    results_lag: bool | None = None
    times: int = 1
    after: int = 0
    path: str | None = None
    method: str | None = None
    model: str | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Fault:
        """Read a fault from text or JSON values; raises ValueError naming the key."""
        parsed = {}
        for key, value in values.items():
            if key not in _PARSERS:
                raise ValueError(f"fault: unknown key {key!r}")
            try:
                parsed[key] = _PARSERS[key](value)
            except (TypeError, ValueError):
                raise ValueError(f"fault: {key}={value!r} is not understood") from None
        fault = cls(**parsed)
        if not fault.effects:
            raise ValueError("fault: names no effect, such as status or disconnect_after")
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
        """Say whether a request is one this fault is meant for."""
        if not ended and _RESULTS_EFFECTS & set(self.effects):
            return False
        wanted_method, wanted_path = self._default_target()
        return (
            fnmatchcase(path, self.path or wanted_path)
            and method == (self.method or wanted_method or method).upper()
            and (self.model is None or fnmatchcase(model or "", self.model))
        )

    def _default_target(self) -> tuple[str | None, str]:
        """Return where the effects make sense, for faults that name no path."""
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

    def merged_over(self, other: Fault) -> Fault:
        """Return both faults in one; this one's values win."""
        own = {key: value for key, value in asdict(self).items() if value is not None}
        return replace(other, **own)


def raise_status(fault: Fault | None) -> None:
    """Raise the error that a fault of a status asks for."""
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
