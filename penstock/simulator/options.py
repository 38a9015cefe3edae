"""How a simulator behaves: one immutable value, replaced as a whole at run time."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any


def _option(default: float, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one simulator process."""

    rate: float = _option(40.0, "Deltas per second of each stream; 0: as fast as possible.")
    deltas: int = _option(0, "Text deltas of each answer; 0: 24 to 64, depending on the prompt.")
    ping_every: int = _option(50, "Deltas between two ping events; 0: only the first ping.")
    latency_seconds: float = _option(0.0, "Seconds before the first byte of every message.")
    batch_seconds: float = _option(2.0, "Seconds from a batch's creation to its end.")
    active_batches: int = _option(0, "Maximum batches in progress; 0: no limit.")
    queued_requests: int = _option(0, "Maximum requests in batches in progress; 0: no limit.")
    list_consistency_s: float = _option(0.0, "Seconds from a batch's creation until it is listed.")
    batch_answer_bytes: int = _option(0, "Bytes of text in a batch's answers; 0: prompt decides.")
    prerender: int = _option(0, "1: render results before a batch ends; 0: while they are read.")
    quick_create: int = _option(0, "1: find a batch's requests without parsing the JSON.")
    requests_per_minute: int = _option(0, "Maximum POST /v1/messages in a minute; 0: no limit.")
    minute_seconds: float = _option(60.0, "Seconds in that minute; tests shorten it.")
    mark: int = _option(0, "1: begin every answer's text with [simulated].")
    log_size: int = _option(1000, "Maximum requests kept for GET /_sim/requests.")

    def __post_init__(self) -> None:
        """Refuse values that would only fail later, in the middle of a response."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{each.name}: must be a number, not {value!r}")
            if isinstance(each.default, int) and not isinstance(value, int):
                raise TypeError(f"{each.name}: must be a whole number, not {value!r}")
            if not 0 <= value < float("inf"):
                raise ValueError(f"{each.name}: must be zero or more, not {value!r}")
        if not self.minute_seconds:
            raise ValueError("minute_seconds: must be greater than zero")

    def changed(self, values: Mapping[str, Any]) -> "Options":
        """These options with some replaced. Raises `ValueError` for an unknown name."""
        unknown = sorted(set(values) - {each.name for each in fields(self)})
        if unknown:
            raise ValueError(f"unknown option: {', '.join(unknown)}")
        return replace(self, **values)
