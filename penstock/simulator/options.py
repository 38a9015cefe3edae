"""How a simulator behaves: one frozen value, changed at run time by replacing it whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any


def _option(default: float, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The knobs of one simulator process."""

    rate: float = _option(40.0, "Deltas per second of each stream; 0 writes as fast as possible.")
    deltas: int = _option(0, "Text deltas of an answer; 0 derives 24 to 64 from the prompt.")
    ping_every: int = _option(50, "Deltas between two ping events; 0 sends only the first ping.")
    latency_seconds: float = _option(0.0, "Time before the first byte of every message.")
    batch_seconds: float = _option(2.0, "Time from a batch's creation to its end.")
    active_batches: int = _option(0, "Batches in progress that are allowed; 0 is any number.")
    queued_requests: int = _option(0, "Requests of such batches that are allowed; 0 is any number.")
    list_consistency_s: float = _option(0.0, "Time from a batch's creation until it is listed.")
    batch_answer_bytes: int = _option(0, "Size of a batch's answers; 0 derives it from the prompt.")
    prerender: int = _option(0, "1 writes results before a batch ends, 0 while they are read.")
    quick_create: int = _option(0, "1 finds a batch's requests without reading the JSON.")
    requests_per_minute: int = _option(0, "Allowance of POST /v1/messages; 0 is none.")
    minute_seconds: float = _option(60.0, "Length of that minute; tests shorten it.")
    log_size: int = _option(1000, "Requests kept for GET /_sim/requests.")

    def __post_init__(self) -> None:
        """Refuse values that would only fail later, in the middle of an answer."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{each.name}: {value!r} is not a number")
            if isinstance(each.default, int) and not isinstance(value, int):
                raise TypeError(f"{each.name}: {value!r} is not a whole number")
            if not 0 <= value < float("inf"):
                raise ValueError(f"{each.name}: {value!r} is not zero or more")
        if not self.minute_seconds:
            raise ValueError("minute_seconds: a minute needs a length")

    def changed(self, values: Mapping[str, Any]) -> Options:
        """Return these options with some replaced; an unknown name is a ValueError."""
        unknown = sorted(set(values) - {each.name for each in fields(self)})
        if unknown:
            raise ValueError(f"unknown option: {', '.join(unknown)}")
        return replace(self, **values)
